"use strict";
const by = id => document.getElementById(id), talk = by("talk");
const count = new Intl.NumberFormat("en"), dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumSignificantDigits: 2 });
const MULTIPLE_OF_USUAL = 2, MULTIPLE_OF_CUT = 2, STOPS = 32, NEAR_END_PIXELS = 80;
let key = "", model = null, running = null, turns = [], bill = { answers: 0, tokens: 0, usd: 0, priced: true };

const make = (tag, parent, kind = "", text = "") => {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;  // whatever a model says is text
  parent.append(made);
  return made;
};

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (e) {
    throw e.name === "AbortError" ? e : new Error("the server cannot be reached");
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => null);
  const error = new Error(body?.error?.message ?? `${reply.status} ${reply.statusText}`);
  error.status = reply.status;
  throw error;
}

async function meet() {
  try {
    model = (await (await call("/v1/models")).json()).data[0];
  } catch (e) {
    by("door").hidden = e.status !== 401;
    by("ask").hidden = e.status === 401;
    by("refused").textContent = key ? e.message : "";
    if (e.status === 401) by("key").focus(); else make("p", by("hello"), "note fault", e.message);
    return;
  }
  by("door").hidden = true;
  by("ask").hidden = by("send").disabled = false;
  by("name").textContent = model.id;
  document.title = `${model.id} · tenner`;
  const usual = model.tenner.thinking_tokens_max, slider = by("budget");
  slider.step = Math.max(1, Math.round(MULTIPLE_OF_USUAL * usual / STOPS));
  slider.max = Math.max(MULTIPLE_OF_USUAL * usual, 1);
  slider.value = usual;
  by("remember").checked = model.tenner.keeps_history;
  tellBudget();
  by("question").focus();
  offerExamples((await (await call("/v1/examples")).json()).data);
}

// Questions of the kinds that the student was trained for, to begin with.
function offerExamples(examples) {
  by("examples").hidden = !examples.length;
  for (const { question, before } of examples) {
    const button = make("button", by("examples"), "quiet example");
    make("span", button, "", question);
    button.addEventListener("click", () => { if (!running) ask(question, { recorded: before }); });
  }
}

function tellBudget() {
  const tokens = by("budget").valueAsNumber;
  by("tokens").textContent = tokens ? `≤ ${count.format(tokens)} tokens` : "none";
  by("budget").setAttribute("aria-valuetext", tokens ? `at most ${tokens} tokens` : "no thinking");
}

class Exchange {
  // A question and an answer to it. `first` is the exchange that this answer stands beside; `recorded` is what the
  // untrained student answered.
  constructor(question, before, limit, first = null, recorded = null) {
    by("hello").hidden = true;
    this.question = question;
    this.before = before;
    this.article = first?.article ?? make("article", talk);
    this.article.classList.add("busy");
    if (!first) make("h2", this.article, "", question);
    this.attempts = first?.attempts ?? make("div", this.article, "attempts");
    if (recorded) this.showRecorded(recorded);
    const attempt = this.attempt = make("div", this.attempts, "attempt");
    make("p", attempt, "limit", limit);
    this.fold = make("details", attempt);
    this.fold.hidden = true;
    this.summary = make("summary", this.fold, "", "Thinking");
    this.summary.addEventListener("click", () => { this.chosen = true; });
    this.thinking = make("div", this.fold, "text thinking");
    this.answer = make("div", attempt, "text answer");
    this.note = make("p", attempt, "note");
    this.chosen = false;
    this.pieces = 0;
    this.last = null;
    talk.scrollTop = talk.scrollHeight;
  }

  showRecorded({ thinking, answer, verdict }) {
    const attempt = make("div", this.attempts, "attempt recorded");
    make("p", attempt, "limit", "before training, as the run has recorded it");
    if (thinking) {
      const fold = make("details", attempt);
      make("summary", fold, "", "Thinking");
      make("div", fold, "text thinking", thinking);
    }
    make("div", attempt, "answer formatted").append(formattedText(answer));
    make("p", attempt, "note", verdict);
  }

  say(text, part, forced) {
    if (!text) return;
    const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < NEAR_END_PIXELS;
    const place = part === "thinking" ? this.thinking : this.answer;
    if (part === "thinking") {
      this.fold.hidden = false;
      this.pieces += 1;
      this.summary.textContent = `Thinking, ${count.format(this.pieces)} tokens`;
    }
    if (!this.chosen) this.fold.open = part === "thinking";
    if (this.last?.place !== place || this.last.forced !== forced) {
      if (forced) {
        const mark = make("mark", place);
        make("span", mark, "unseen", "[put in: ");
        this.last = { place, forced, node: mark.appendChild(document.createTextNode("")) };
        make("span", mark, "unseen", "]");
      } else {
        this.last = { place, forced, node: place.appendChild(document.createTextNode("")) };
      }
    }
    this.last.node.data += text;
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  }

  finish(usage, reason) {
    const { thinking_tokens, answer_tokens, cost_usd, interventions, policy } = usage, budget = policy.thinking_tokens_max;
    const waits = interventions.filter(i => i.kind === "wait").length, cut = interventions.some(i => i.kind === "cut");
    if (!this.chosen) this.fold.open = false;
    this.summary.textContent = `Thinking, ${count.format(thinking_tokens)} tokens`;
    const notes = [`${count.format(thinking_tokens)} tokens of thinking, ${count.format(answer_tokens)} of answer`];
    if (cost_usd !== null) notes.push(dollars.format(cost_usd));
    if (waits) notes.push(waits === 1 ? "made to continue once" : `made to continue ${waits} times`);
    if (cut && budget) {
      this.cutAt = budget;
      make("p", this.fold, "cut", `Cut here: the budget of ${count.format(budget)} tokens is used up.`);
      notes.push(`thinking cut at the budget of ${count.format(budget)}`);
    }
    if (reason === "length") notes.push("the answer reached its limit");
    this.note.textContent = notes.join(" · ");
    bill.answers += 1;
    bill.tokens += thinking_tokens + answer_tokens;
    bill.usd += cost_usd ?? 0;
    bill.priced &&= cost_usd !== null;
    const sum = [`${count.format(bill.tokens)} tokens`];
    if (bill.priced) sum.push(dollars.format(bill.usd));
    by("bill").textContent = sum.join(" · ");
  }

  // Show Markdown and TeX as what they mean; what was put in stays marked. Returns whether there are any.
  format() {
    this.said = [...this.answer.childNodes];
    this.formatted = this.said.flatMap(node => node.nodeType === Node.TEXT_NODE ? [...formattedText(node.data).childNodes] : [node]);
    const plain = this.answer.textContent;
    this.show(true);
    return this.answer.textContent !== plain || this.answer.querySelector(":scope > :not(mark)") !== null;
  }

  show(formatted) {
    this.answer.classList.toggle("formatted", formatted);
    this.answer.classList.toggle("text", !formatted);
    this.answer.replaceChildren(...formatted ? this.formatted : this.said);
  }

  // Once the answer has ended: copy it, show it as it was written, or ask the same again, beside it.
  offer(answer) {
    const tools = make("div", this.attempt, "tools");
    const offerTo = (name, does) => {
      const button = make("button", tools, "quiet", name);
      button.addEventListener("click", () => does(button));
    };
    if (answer && navigator.clipboard) {
      offerTo("Copy", copy => navigator.clipboard.writeText(answer).then(
        () => { copy.textContent = "Copied"; }, () => { copy.textContent = "Not allowed"; }));
    }
    if (this.format()) {
      offerTo("As written", button => {
        const formatted = this.answer.classList.contains("text");
        this.show(formatted);
        button.textContent = formatted ? "As written" : "Formatted";
      });
    } else {
      this.show(false);
    }
    if (this.cutAt) {
      const budget = MULTIPLE_OF_CUT * this.cutAt;
      offerTo(`Again, with ${count.format(budget)} tokens`, () => { if (!running) ask(this.question, { first: this, budget }); });
    }
    offerTo("Again, with the settings below", () => { if (!running) ask(this.question, { first: this }); });
  }

  fail(message) {
    this.note.textContent = message;
    this.note.classList.add("fault");
  }
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection broke off");
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

// `first`: the exchange that the answer stands beside. `recorded`: the untrained student's answer, which it stands beside.
async function ask(question, { first = null, recorded = null, budget = by("budget").valueAsNumber } = {}) {
  const before = first?.before ?? (by("remember").checked ? turns : []);
  const messages = [...before, { role: "user", content: question }];
  const thinking = { max_tokens: budget, waits: by("waits").valueAsNumber || 0 };
  const waits = thinking.waits ? `, ${thinking.waits === 1 ? "1 wait" : `${thinking.waits} waits`}` : "";
  const limit = thinking.max_tokens ? `at most ${count.format(thinking.max_tokens)} tokens of thinking` : "no thinking";
  const exchange = new Exchange(question, before, (recorded ? "after training, " : "") + limit + waits, first, recorded);
  running = new AbortController();
  by("stop").hidden = false;
  by("send").hidden = true;
  by("state").textContent = "Answering";
  let answer = "", finished = false;
  try {
    const body = JSON.stringify({ model: model.id, messages, thinking, stream: true });
    const reply = await call("/v1/chat/completions", { method: "POST", body, signal: running.signal });
    for await (const { choices: [choice], tenner } of events(reply)) {
      const { content, reasoning_content } = choice.delta;
      exchange.say(reasoning_content, "thinking", Boolean(tenner?.forced));
      exchange.say(content, "answer", Boolean(tenner?.forced));
      answer += content ?? "";
      if (choice.finish_reason) {
        exchange.finish(tenner, choice.finish_reason);
        finished = true;
      }
    }
    by("state").textContent = `Answer: ${answer}`;
  } catch (e) {
    if (e.name === "AbortError") exchange.note.textContent = "stopped"; else exchange.fail(e.message);
    by("state").textContent = exchange.note.textContent;
  }
  if (finished && !first) turns = [...messages, { role: "assistant", content: answer }];
  exchange.offer(answer);
  exchange.article.classList.remove("busy");
  running = null;
  by("stop").hidden = true;
  by("send").hidden = false;
}

by("ask").addEventListener("submit", event => {
  event.preventDefault();
  const question = by("question").value.trim();
  if (!question || running || !model) return;
  by("question").value = "";
  ask(question);
});
by("question").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
document.addEventListener("keydown", event => { if (event.key === "Escape") running?.abort(); });
by("stop").addEventListener("click", () => { running?.abort(); by("question").focus(); });
by("budget").addEventListener("input", tellBudget);
by("door").addEventListener("submit", event => {
  event.preventDefault();
  key = by("key").value;
  meet();
});
meet();
