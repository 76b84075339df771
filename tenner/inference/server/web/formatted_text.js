"use strict";
// What a model wrote in Markdown and TeX, as DOM nodes. It is never read as HTML: markdown-it's tokens become elements
// of the kinds that Markdown knows, TeX becomes MathML, and all else stays text. Images are not loaded.
const formattedText = (() => {
  const DELIMITERS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$", "$", false]];
  const TEX = { throwOnError: true, trust: false, maxExpand: 1000, maxSize: [20, 20] };
  const ADDRESS = /^(https?:|mailto:)/i;

  function inlineTeX(state, silent) {
    const { src, pos, posMax } = state;
    const [open, close, display] = DELIMITERS.find(([open]) => src.startsWith(open, pos)) ?? [];
    if (!open) return false;
    const start = pos + open.length;
    let end = src.indexOf(close, start);
    while (end > 0 && src[end - 1] === "\\") end = src.indexOf(close, end + 1);  // \$ is a dollar in TeX
    if (end <= start || end + close.length > posMax) return false;
    // $5 and $6 are prices: as in Pandoc, TeX does not begin or end with a space, and no digit follows it.
    if (open === "$" && (/^\s|\s$/.test(src.slice(start, end)) || /\d/.test(src[end + 1] ?? ""))) return false;
    if (!silent) Object.assign(state.push("tex", "", 0), { content: src.slice(start, end), meta: { display } });
    state.pos = end + close.length;
    return true;
  }

  function blockTeX(state, startLine, endLine, silent) {
    const lineAt = line => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]).trimEnd();
    const [open, close, display] = DELIMITERS.find(([open, , display]) => display && lineAt(startLine).startsWith(open)) ?? [];
    if (!open) return false;
    const lines = [lineAt(startLine).slice(open.length)];
    let line = startLine;
    while (!lines.at(-1).endsWith(close)) {
      line += 1;
      if (line >= endLine) return false;
      lines.push(lineAt(line));
    }
    if (silent) return true;
    const content = lines.join("\n").slice(0, -close.length);
    Object.assign(state.push("tex", "", 0), { content, meta: { display } });
    state.line = line + 1;
    return true;
  }

  const markdown = markdownit({ html: false, breaks: true }).disable("image");
  markdown.inline.ruler.before("escape", "tex", inlineTeX);
  markdown.block.ruler.before("fence", "tex", blockTeX, { alt: ["paragraph", "blockquote", "list"] });

  function texNode({ content, meta }) {
    const holder = document.createElement("span");
    holder.className = meta.display ? "tex display" : "tex";
    try {
      temml.render(content, holder, { ...TEX, displayMode: meta.display });
    } catch {  // not TeX, or none that is known
      holder.replaceChildren(content);
      holder.classList.add("unread");
    }
    return holder;
  }

  function elementOf(token) {
    const made = document.createElement(token.tag.replace(/^h[1-6]$/, "h4"));  // the page's own headings are above
    if (token.type === "ordered_list_open" && token.attrGet("start")) made.start = token.attrGet("start");
    if (token.type === "link_open" && ADDRESS.test(token.attrGet("href"))) {
      Object.assign(made, { href: token.attrGet("href"), title: token.attrGet("href"), target: "_blank", rel: "noopener noreferrer" });
    }
    return made;
  }

  function leaf(token) {
    if (token.type === "tex") return texNode(token);
    if (token.type === "hardbreak" || token.type === "softbreak") return document.createElement("br");
    if (token.type === "hr") return document.createElement("hr");
    if (token.type === "text") return document.createTextNode(token.content);
    const code = document.createElement("code");
    code.textContent = token.content;
    if (token.type === "code_inline") return code;
    const block = document.createElement("pre");  // a fence, or indented
    block.append(code);
    return block;
  }

  function build(tokens, root) {
    const open = [root];
    for (const token of tokens) {
      if (token.hidden) continue;  // the paragraphs of a tight list
      if (token.type === "inline") {
        build(token.children, open.at(-1));
      } else if (token.nesting === 1) {
        const made = elementOf(token);
        open.at(-1).append(made);
        open.push(made);
      } else if (token.nesting === -1) {
        open.pop();
      } else {
        open.at(-1).append(leaf(token));
      }
    }
    return root;
  }

  return text => {
    const root = build(markdown.parse(text, {}), document.createDocumentFragment());
    const only = root.childNodes.length === 1 && root.firstElementChild?.tagName === "P" ? root.firstElementChild : null;
    // A single paragraph stays in its line, at its distance from what is before and behind it.
    if (only) root.replaceChildren(/^\s*/.exec(text)[0], ...only.childNodes, /\s*$/.exec(text)[0]);
    return root;
  };
})();
