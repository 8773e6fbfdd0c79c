
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const records = data.records;
  // A state is one mark, and the only thing on the page that green and red stand for.
  const STATES = { correct: "✓", wrong: "✗", no_answer: "?", not_judged: "·", reflect: "↺", open: "○" };
  const NAMES = { correct: "correct", wrong: "wrong", no_answer: "no answer", not_judged: "not judged", reflect: "reflect", open: "left open" };
  const DEEPEST = 8; // further levels are not indented: the number before a step tells its level
  const OPEN_AT_ONCE = 400; // a larger tree begins folded below depth 3

  /** An element. Texts become text nodes, never markup: what a record says cannot be more than text. */
  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [type, act] of Object.entries(value)) element.addEventListener(type, act);
      else if (name === "v") element.style.setProperty("--v", String(Math.min(Math.max(value, 0), 1)));
      else if (name === "d") element.style.setProperty("--d", String(value));
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
    return element;
  }

  const missing = (value) => value === null || value === undefined;
  const share = (value) => (missing(value) ? "–" : value.toFixed(2));
  const labelText = (value) => (value === 0 || value === 1 ? String(value) : share(value));
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const button = (text, act) => h("button", { class: "ghost", type: "button", on: { click: act } }, text);

  function meter(value, what) {
    return h("span", { class: "meter", title: missing(value) ? `no ${what}` : `${what} ${value}` }, missing(value) ? null : h("i", { v: value }), share(value));
  }

  function mark(state, answer) {
    if (!state) return h("span", { class: "state" });
    const said = missing(answer) ? "" : ` ${answer}`;
    return h("span", { class: `state ${state}`, title: `${NAMES[state]}${said && ":"}${said}` }, h("b", null, STATES[state]), said);
  }

  /** `text` as nodes in which what was searched for is marked. */
  function marked(text, wanted) {
    const lowered = text.toLowerCase();
    if (!wanted || lowered.length !== text.length) return [text]; // a letter changed its length: positions would be off
    const parts = [];
    let from = 0;
    for (let at = lowered.indexOf(wanted); at >= 0 && parts.length < 200; at = lowered.indexOf(wanted, from)) {
      parts.push(text.slice(from, at), h("mark", null, text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    return [...parts, text.slice(from)];
  }

  /** Numbered steps, with heads over what `cells` puts beside each. */
  function steps(list, heads = [], cells = () => [], cls = () => "") {
    return h("table", { class: "steps" },
      heads.length > 0 && h("thead", null, h("tr", null, ["step", "", ...heads].map((head) => h("th", null, head)))),
      h("tbody", null, list.map((step, index) => h("tr", { class: cls(index) },
        h("td", { class: "no" }, String(step[0])),
        h("td", { class: "text" }, step[1] || h("span", { class: "soft" }, "(empty)")),
        cells(step, index).map((cell) => h("td", null, cell))))));
  }

  // The frame: the list of records at the side, one record in the middle.

  const main = h("main", { tabindex: "-1" });
  const list = h("ul", { class: "records", "aria-label": "Records" });
  const find = h("input", { type: "search", placeholder: `Find in ${plural(records.length, "record")}`, "aria-label": "Find a record by id or question",
    on: { input: () => {
      const wanted = find.value.trim().toLowerCase();
      for (const { item, words } of items) item.hidden = !words.includes(wanted);
    } } });
  let current = -1;

  function summary(record) {
    const count = (state) => record.states.filter((each) => each === state).length;
    switch (record.kind) {
      case "tree": return ["correct", "wrong", "no_answer"].filter(count).map((state) => mark(state, count(state)));
      case "samples": return [h("span", { title: "pass rate" }, share(record.pass_rate))];
      case "preference": return [h("span", null, record.rule)];
      case "scored": return [mark((record.answers[record.selected] || {}).verdict)];
      default: return [];
    }
  }

  const items = records.map((record, index) => {
    const go = h("button", { type: "button", on: { click: () => { show(index); } } },
      h("span", { class: "name" }, h("span", { class: "cut" }, record.id), summary(record)),
      h("span", { class: "soft cut" }, `${record.kind} · ${record.question.slice(0, 120)}`));
    const item = h("li", null, go);
    list.append(item);
    return { item, go, words: `${record.id}\n${record.dataset}\n${record.kind}\n${record.question}`.toLowerCase() };
  });

  function show(index) {
    if (items[current]) items[current].go.removeAttribute("aria-current");
    current = index;
    items[index].go.setAttribute("aria-current", "true");
    items[index].item.scrollIntoView({ block: "nearest" });
    const record = records[index];
    const body = { tree: treeView, samples: answersView, scored: answersView, prm: prmView, sft: sftView, preference: pairView }[record.kind];
    main.className = record.kind;
    main.replaceChildren(...heading(record));
    if (body) body(record);
    main.scrollTop = 0;
    try { history.replaceState(null, "", `#${index + 1}`); } catch { /* not allowed here */ }
  }

  function heading(record) {
    const gold = new Set(record.task === "choice" ? record.answer : "");
    return [
      h("header", null, h("h1", null, record.id), h("span", { class: "soft" }, `${record.kind} · ${record.dataset} · ${record.task}`)),
      h("section", { class: "card question", "aria-label": "Question", tabindex: "0" },
        h("div", { class: "text" }, record.question),
        record.options.length
          ? h("ul", { class: "options" }, record.options.map(([letter, text]) =>
            h("li", { class: gold.has(letter) ? "gold" : "" }, h("b", null, letter), " ", text, gold.has(letter) && " ✓")))
          : h("p", { class: "options" }, "Gold answer: ", h("b", { class: "gold" }, record.answer))),
    ];
  }

  function select(name, options, act) {
    return h("select", { "aria-label": name, on: { change: act } }, options.map(([value, text]) => h("option", { value }, text)));
  }

  // Trees

  function treeView(record) {
    const { nodes, states } = record;
    const children = nodes.map(() => []);
    nodes.forEach((node, index) => { if (index) children[node.parent].push(index); });
    const order = [];
    for (const stack = [0]; stack.length;) {
      const index = stack.pop();
      order.push(index);
      for (let i = children[index].length - 1; i >= 0; i--) stack.push(children[index][i]);
    }
    const labels = nodes.map(() => new Map()); // of each node: label -> trajectories that give it
    const through = nodes.map(() => [0, 0]);
    const endPath = new Map();
    for (const path of record.paths) {
      endPath.set(path.nodes[path.nodes.length - 1], path);
      path.nodes.forEach((index, i) => {
        through[index][path.correct ? 0 : 1] += 1;
        if (path.labels[i] !== null) labels[index].set(path.labels[i], (labels[index].get(path.labels[i]) || 0) + 1);
      });
    }
    function labelOf(index) {
      const found = [...labels[index]].sort((a, b) => a[0] - b[0]);
      if (found.length < 2) return h("span", { class: "number" }, labelText(found.length ? found[0][0] : null));
      const all = found.map(([value, n]) => `${share(value)} in ${n}`).join(", ");
      return h("span", { class: "number", title: `its label differs between trajectories: ${all}` }, "≠");
    }

    const collapsed = new Set(nodes.length > OPEN_AT_ONCE ? order.filter((i) => nodes[i].depth >= 3 && children[i].length) : []);
    let selected = 0;
    let visible = [];
    let wanted = "";

    const rows = nodes.map((node, index) => {
      const twist = h("button", { class: "twist", type: "button", tabindex: "-1", "aria-hidden": "true",
        on: { click: (event) => { event.stopPropagation(); choose(index, false); toggle(index); } } });
      const say = h("span", { class: "say cut" }, node.text);
      return { twist, say, row: h("div", { class: "row", role: "treeitem", tabindex: "-1", "aria-level": node.depth + 1,
        on: { click: () => choose(index, true), dblclick: () => toggle(index) } },
      mark(states[index], node.answer),
      h("span", { class: "step" }, h("span", { class: "indent", d: Math.min(node.depth, DEEPEST) }), twist, h("span", { class: "no" }, String(node.depth)), say),
      labelOf(index), meter(node.value, "value"), h("span", { class: "number" }, String(node.visits))) };
    });
    const heads = h("div", { class: "row heads", "aria-hidden": "true" }, h("span", null, "state"), h("span", null, "step"),
      h("span", { class: "number", title: "the label of the step in its trajectories" }, "label"), h("span", { class: "meter" }, "value"), h("span", { class: "number" }, "visits"));
    const box = h("div", { class: "card rows", role: "tree", "aria-label": "Search tree", on: { keydown: onKey } }, heads, order.map((index) => rows[index].row));
    const detail = h("aside", { class: "card detail", "aria-label": "The selected node" });

    const search = h("input", { type: "search", placeholder: "Search the steps", "aria-label": "Search the steps", on: { input: () => refresh() } });
    const state = select("State", [["", "any state"], ...Object.entries(NAMES)], () => refresh());
    const count = h("span", { class: "count soft", role: "status" });
    const tools = h("div", { class: "tools" }, search, state,
      button("Unfold", () => { collapsed.clear(); refresh(); }),
      button("Fold", () => { order.forEach((i) => { if (i && children[i].length) collapsed.add(i); }); refresh(); }),
      record.ends.map((end, i) => button(i === 0 ? "Best" : "Worst", () => { reveal(end); choose(end, true); })), count);

    function toggle(index, closed = !collapsed.has(index)) {
      if (!children[index].length) return;
      if (closed) collapsed.add(index); else collapsed.delete(index);
      refresh();
    }
    function reveal(index) {
      for (let at = nodes[index].parent; at >= 0; at = nodes[at].parent) collapsed.delete(at);
      refresh();
    }

    function refresh() {
      wanted = search.value.trim().toLowerCase();
      const filtering = wanted !== "" || state.value !== "";
      const match = nodes.map((node, index) => !filtering || (
        (node.text.toLowerCase().includes(wanted) || String(node.answer ?? "").toLowerCase().includes(wanted))
        && (state.value === "" || states[index] === state.value)));
      const keep = [...match]; // and what leads to it; parents stand before their children
      if (filtering) for (let i = nodes.length - 1; i > 0; i--) if (keep[i]) keep[nodes[i].parent] = true;
      const inside = nodes.map(() => false); // below a folded node
      visible = [];
      for (const index of order) {
        const parent = nodes[index].parent;
        inside[index] = parent >= 0 && !filtering && (inside[parent] || collapsed.has(parent));
        const { row, twist, say } = rows[index];
        row.hidden = !keep[index] || inside[index];
        if (row.hidden) continue;
        visible.push(index);
        row.classList.toggle("faint", !match[index]);
        if (children[index].length) {
          const open = filtering || !collapsed.has(index);
          twist.textContent = open ? "▾" : "▸";
          row.setAttribute("aria-expanded", String(open));
        }
        if (say.dataset.wanted !== wanted) {
          say.replaceChildren(...marked(nodes[index].text, wanted));
          say.dataset.wanted = wanted;
        }
      }
      count.textContent = filtering ? `${match.filter(Boolean).length} of ${plural(nodes.length, "node")}` : plural(nodes.length, "node");
      if (visible.length && !visible.includes(selected)) choose(visible[0], false);
      if (wanted) describe();
    }

    function choose(index, focus) {
      rows[selected].row.setAttribute("aria-selected", "false");
      rows[selected].row.tabIndex = -1;
      selected = index;
      rows[index].row.setAttribute("aria-selected", "true");
      rows[index].row.tabIndex = 0;
      if (focus) { rows[index].row.focus({ preventScroll: true }); rows[index].row.scrollIntoView({ block: "nearest" }); }
      describe();
    }

    /** The card of the selected node: what is known of it, and the steps to it. */
    function describe() {
      const node = nodes[selected];
      const path = [];
      for (let at = selected; at >= 0; at = nodes[at].parent) path.unshift(at);
      const own = endPath.get(selected);
      const facts = [["value", meter(node.value, "backed-up value")]];
      if (node.rollout_value !== null) facts.push(["rollouts", [meter(node.rollout_value, "share of rollouts that was correct"), node.rollouts ? ` of ${node.rollouts}` : ""]]);
      if (node.visits) facts.push(["visits", String(node.visits)]);
      if (states[selected]) facts.push(["state", [mark(states[selected]), ` ${NAMES[states[selected]]}${missing(node.answer) ? "" : `: ${node.answer}`}`]]);
      const [right, wrong] = through[selected];
      if (right + wrong) facts.push(["trajectories", `${right} correct, ${wrong} wrong through it`]);
      const table = steps(path.map((index) => [nodes[index].depth, ""]), ["", "label", "value"],
        (_, i) => [mark(states[path[i]]), own ? labelText(own.labels[i]) : labelOf(path[i]), share(nodes[path[i]].value)],
        (i) => (path[i] === selected ? "here" : ""));
      table.querySelectorAll("td.text").forEach((cell, i) => cell.replaceChildren(...marked(nodes[path[i]].text, wanted)));
      detail.replaceChildren(h("h2", null, `Step ${node.depth} · ${node.action}`),
        h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", null, name), h("dd", null, value)])),
        h("h2", null, own ? "Its trajectory" : "The way to it"), table);
    }

    function onKey(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const at = visible.indexOf(selected);
      const go = (i) => { if (visible[i] !== undefined) choose(visible[i], true); };
      const open = children[selected].length && !collapsed.has(selected);
      switch (event.key) {
        case "ArrowDown": go(at + 1); break;
        case "ArrowUp": go(at - 1); break;
        case "Home": go(0); break;
        case "End": go(visible.length - 1); break;
        case "ArrowRight": if (children[selected].length && !open) toggle(selected, false); else if (open) go(at + 1); break;
        case "ArrowLeft": if (open) toggle(selected, true); else if (nodes[selected].parent >= 0) choose(nodes[selected].parent, true); break;
        case "Enter": case " ": toggle(selected); break;
        case "*": collapsed.clear(); refresh(); break;
        default: return;
      }
      event.preventDefault();
    }

    main.append(tools, h("div", { class: "split" }, box, detail));
    const first = record.ends.length ? record.ends[0] : 0;
    reveal(first);
    choose(first, false);
    rows[first].row.scrollIntoView({ block: "center" });
  }

  // Answers: samples and scored records

  function answersView(record) {
    const scored = record.kind === "scored";
    const right = (each) => each.verdict === "correct";
    const open = scored ? [record.selected] : [record.answers.findIndex(right), record.answers.findIndex((each) => !right(each))];
    const search = h("input", { type: "search", placeholder: "Search the answers", "aria-label": "Search the answers", on: { input: () => refresh() } });
    const verdict = select("Verdict", [["", "any verdict"], ...Object.entries(NAMES).slice(0, 4)], () => refresh());
    const sort = select("Order", [["order", "as written"], ["score", "by score"]], () => refresh());
    const count = h("span", { class: "count soft", role: "status" });
    const cards = record.answers.map((each, index) => {
      const picked = scored && index === record.selected;
      const card = h("details", { class: `card answer${picked ? " picked" : ""}`, open: open.includes(index), on: { toggle: () => { fill(); } } },
        h("summary", null, h("span", { class: "no" }, String(index)), mark(each.verdict, each.answer),
          picked && h("b", null, "selected"), each.finish_reason === "length" && h("b", null, "cut off"),
          h("span", { class: "grow cut" }, each.steps.length ? each.steps[each.steps.length - 1][1] : "(empty)"),
          scored ? h("span", { class: "spark", title: "scores of its steps" }, each.steps.filter((step) => step[2] !== null).map((step) => h("i", { v: step[2] }))) : null,
          scored ? meter(each.score, "score") : h("span", { class: "soft" }, plural(each.tokens, "token"))));
      function fill() {
        if (card.open && card.childElementCount === 1) card.append(scored ? steps(each.steps, ["score"], (step) => [meter(step[2], "score")]) : steps(each.steps));
      }
      fill();
      return card;
    });
    const words = record.answers.map((each) => [each.answer ?? "", ...each.steps.map((step) => step[1])].join("\n").toLowerCase());
    const box = h("div");
    function refresh() {
      const wanted = search.value.trim().toLowerCase();
      const shown = record.answers.map((_, index) => index)
        .filter((index) => words[index].includes(wanted) && (verdict.value === "" || record.answers[index].verdict === verdict.value));
      if (sort.value === "score") shown.sort((a, b) => record.answers[b].score - record.answers[a].score || a - b);
      box.replaceChildren(...shown.map((index) => cards[index]));
      count.textContent = shown.length < cards.length ? `${shown.length} of ${plural(cards.length, "answer")}` : plural(cards.length, "answer");
    }
    refresh();
    const most = Math.max(1, ...record.votes.map((vote) => vote.n));
    main.append(
      h("h2", null, "Votes"),
      h("div", { class: "votes card" }, record.votes.flatMap((vote) => [mark(vote.verdict, vote.answer ?? "(none)"),
        h("span", { class: "track", v: vote.n / most }), h("span", { class: "number" }, `${vote.n}${scored ? ` · sum ${share(vote.total)}` : ""}`)])),
      h("h2", null, scored ? `Candidates, selected by ${record.strategy}` : `Answers, pass rate ${share(record.pass_rate)}`),
      h("div", { class: "tools" }, search, verdict, scored && sort,
        button("Open all", () => cards.forEach((card) => { card.open = true; })), button("Close all", () => cards.forEach((card) => { card.open = false; })), count),
      box);
  }

  // Training data

  function prmView(record) {
    main.append(h("section", { class: "card" }, steps(record.completions.map((text, k) => [k, text]), ["label", "value"],
      (_, k) => [labelText(record.labels[k]), meter(record.values[k], "value")])));
  }

  function prompt(record) {
    const [first, ...others] = record.prompt;
    if (first && !others.length && first.role === "user" && first.content.startsWith(record.question.trim())) return;
    main.append(h("h2", null, "Prompt"), h("section", { class: "card" }, record.prompt.map((turn) =>
      h("div", { class: "text" }, h("b", { class: "soft" }, `${turn.role}: `), turn.content))));
  }

  function sftView(record) {
    prompt(record);
    main.append(h("h2", null, `Answer to learn, smallest value ${share(record.min_value)}`), h("section", { class: "card" }, steps(record.steps)));
  }

  function pairView(record) {
    prompt(record);
    const { chosen, rejected } = record;
    let shared = 0;
    while (shared < chosen.length && shared < rejected.length && chosen[shared][1] === rejected[shared][1]) shared += 1;
    const side = (name, state, list) => h("section", { class: "card" }, h("h2", null, mark(state), ` ${name}`),
      steps(list, [], () => [], (index) => (index < shared ? "faint" : "")));
    main.append(h("h2", null, `Preference by rule “${record.rule}”, margin ${share(record.margin)}`),
      h("div", { class: "pair" }, side("chosen", "correct", chosen), side("rejected", "wrong", rejected)));
  }

  // Keys of the whole page

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (event.key === "Escape" && typing) event.target.blur();
    if (typing) return;
    const step = { n: 1, p: -1 }[event.key];
    if (step) {
      let to = current + step;
      while (items[to] && items[to].item.hidden) to += step;
      if (items[to]) show(to);
    } else if (event.key === "/") {
      (main.querySelector("input[type=search]") || find).focus();
    } else return;
    event.preventDefault();
  });

  document.getElementById("app").append(
    h("nav", { "aria-label": "Records" },
      h("div", { class: "source" }, h("b", null, "medsss view"), h("br"), h("span", { class: "soft" }, `${data.title} · ${plural(records.length, "record")}${data.more ? ", the first of more" : ""}`)),
      find, list,
      h("div", { class: "keys soft" }, h("kbd", null, "n"), " ", h("kbd", null, "p"), " record  ", h("kbd", null, "/"), " search  ", h("kbd", null, "↑↓←→"), " tree")),
    main);
  const asked = Number.parseInt(location.hash.slice(1), 10);
  show(asked >= 1 && asked <= records.length ? asked - 1 : 0);
})();
