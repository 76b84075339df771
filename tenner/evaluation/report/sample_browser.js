"use strict";
// Lists the questions of the index, filters them, and unpacks their texts when they are wanted. Text is only ever set
// as textContent.
(() => {
const PAGE = 25, THINKING_CUT = 1, ANSWER_CUT = 2, FORCED = 1, OF_ANSWER = 2, LEFT_OUT = -1;
const root = document.getElementById("browser"), by = name => root.querySelector(`[name=${name}]`);
const read = id => JSON.parse(document.getElementById(id).textContent);
const index = read("sample-index"), packed = read("sample-texts");
const count = new Intl.NumberFormat("en");
const list = root.querySelector("ol"), status = root.querySelector("[role=status]"), more = root.querySelector(".more");
const chunks = new Map(), rows = index.rows.map(([task, family, id, excerpt, sides], number) => ({
  task, family, id, excerpt, number, sides: sides.map(side => new Map(side.map(([policy, ...answer], place) => {
    const [verdict, tokens, cuts] = answer;
    return [policy, { verdict, tokens, cuts, place }];
  }))),
}));
const right = answer => answer?.verdict === "correct";
const VERDICTS = {
  "": ["any", () => true],
  fixed: ["fixed: wrong before, right after", (a, b) => a && b && !right(a) && right(b)],
  broken: ["broken: right before, wrong after", (a, b) => a && b && right(a) && !right(b)],
  both: ["right both times", (a, b) => right(a) && right(b)],
  neither: ["right neither time", (a, b) => a && b && !right(a) && !right(b)],
  thinking: ["thinking cut, after", (a, b) => b && b.cuts & THINKING_CUT],
  answer: ["answer cut, after", (a, b) => b && b.cuts & ANSWER_CUT],
  unparsed: ["unparsed, after", (a, b) => b?.verdict === "unparsed"],
};
let shown = [], built = 0, searching = 0, texts = null;

const make = (tag, parent, kind = "", text = "") => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = text;
  parent.append(made);
  return made;
};

function unpack(number) {
  if (!chunks.has(number)) {
    const bytes = Uint8Array.from(atob(packed[number]), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    chunks.set(number, new Response(stream).json());
  }
  return chunks.get(number);
}
const textsOf = async row => (await unpack(Math.floor(row.number / index.chunk)))[row.number % index.chunk];

// The two answers that a row shows under the chosen policy; by default those that the headline compares.
const pair = row => {
  const chosen = by("policy").value;
  const policies = chosen === "" ? index.headline[row.task] : [Number(chosen), Number(chosen)];
  return row.sides.map((side, i) => side.get(policies[i]));
};

async function filter() {
  const turn = ++searching, words = by("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length && !texts) {
    status.textContent = "Searching…";
    const all = await Promise.all(packed.map((_, number) => unpack(number)));
    const plain = value => Array.isArray(value) ? value.map(plain).join(" ") : typeof value === "string" ? value : "";
    const joined = rows.map(row => {
      const text = all[Math.floor(row.number / index.chunk)][row.number % index.chunk];
      return `${row.id} ${plain(text)}`.toLowerCase();
    });
    texts = joined;
    if (turn !== searching) return;
  }
  const task = by("task").value, family = by("family").value, verdict = by("verdict").value;
  const inScope = rows.filter(row => {
    const [a, b] = pair(row);
    return (a || b) && (task === "" || row.task === Number(task)) && (family === "" || row.family === Number(family))
      && words.every(word => texts[row.number].includes(word));
  });
  for (const option of by("verdict").options) {
    const [name, holds] = VERDICTS[option.value];
    option.textContent = `${name} (${count.format(inScope.filter(row => holds(...pair(row))).length)})`;
  }
  shown = inScope.filter(row => VERDICTS[verdict][1](...pair(row)));
  list.replaceChildren();
  built = 0;
  build();
  status.textContent = `${count.format(shown.length)} of ${count.format(rows.length)} questions`;
}

function build() {
  for (const row of shown.slice(built, built + PAGE)) {
    const [a, b] = pair(row), fold = make("details", make("li", list)), head = make("summary", fold);
    make("span", head, "asked", row.excerpt);
    const verdicts = make("span", head, "verdicts");
    make("span", verdicts, right(a) ? "right" : "", a?.verdict ?? "not asked");
    verdicts.append(" → ");
    make("span", verdicts, right(b) ? "right" : "", b?.verdict ?? "not asked");
    fold.addEventListener("toggle", () => open(row, [a, b], fold), { once: true });
  }
  built = Math.min(built + PAGE, shown.length);
  more.hidden = built === shown.length;
  more.textContent = `Show ${count.format(Math.min(PAGE, shown.length - built))} more`;
}

async function open(row, answers, fold) {
  const [question, reference, sides] = await textsOf(row);
  const facts = [row.id, index.tasks[row.task]];
  if (row.family >= 0) facts.push(index.families[row.family]);
  write(question, make("p", fold, "question"));
  const line = make("p", fold, "quiet", `${facts.join(", ")}; reference: `);
  write(reference, line);
  const both = make("div", fold, "sides");
  answers.forEach((answer, i) => {
    const side = make("div", both), notes = [];
    make("h3", side, "", index.names[i]);
    if (!answer) {
      make("p", side, "quiet", "not asked under this policy");
      return;
    }
    notes.push(answer.verdict, `${count.format(answer.tokens)} thinking tokens`);
    if (answer.cuts & THINKING_CUT) notes.push("thinking cut");
    if (answer.cuts & ANSWER_CUT) notes.push("answer cut");
    make("p", side, "quiet", notes.join("; "));
    const segments = sides[i][answer.place];
    for (const part of ["thinking", "answer"]) {
      const own = segments.filter(([kind], place) => (ofAnswer(segments, place) ? "answer" : "thinking") === part);
      if (!own.length) continue;
      const said = make("div", side, `said ${part}`);
      make("span", said, "unseen", `${part}: `);
      write(own, said);
    }
  });
}

// A gap belongs to the part of the text before it.
const ofAnswer = (segments, place) => Boolean(segments[segments[place][0] === LEFT_OUT ? place - 1 : place][0] & OF_ANSWER);

function write(segments, parent) {
  for (const [kind, text] of segments) {
    if (kind === LEFT_OUT) {
      make("em", parent, "", ` … ${count.format(text)} characters left out … `);
    } else if (kind & FORCED && text.trim()) {
      const body = text.trim(), start = text.indexOf(body);
      parent.append(text.slice(0, start));
      const mark = make("mark", parent);
      make("span", mark, "unseen", "[put in: ");
      mark.append(body);
      make("span", mark, "unseen", "]");
      parent.append(text.slice(start + body.length));
    } else {
      parent.append(text);
    }
  }
}

function options(name, labels, first) {
  const select = by(name);
  if (first !== undefined) select.append(new Option(first, ""));
  labels.forEach((label, i) => select.append(new Option(label, i)));
  select.parentElement.hidden = labels.length < 2;
  select.addEventListener("change", filter);
}

if (typeof DecompressionStream === "undefined") {
  status.textContent = "This browser is too old to unpack the samples: they are in completions.jsonl.";
  return;
}
options("task", index.tasks, "all");
options("family", index.families, "all");
options("policy", index.policies, "as in the headline");
for (const value of Object.keys(VERDICTS)) by("verdict").append(new Option("", value));
by("verdict").addEventListener("change", filter);
let waiting = 0;
by("words").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 150); });
more.addEventListener("click", build);
root.querySelector(".controls").hidden = false;
filter();
})();
