"use strict";
// The calculator page. TABLES is written by formulas.py, whose `evaluate` does what `bytes` does here.
// Whole numbers are BigInt: the bytes of a large model are more than a double can hold exactly.

// ---------------------------------------- the formulas

const FLOAT = 4n, INT = 8n, SMALL = 2n; // bytes: float32, an id, a number of 16 bits
const product = (...factors) => factors.reduce((a, b) => a * b, 1n);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0n);
const largest = (numbers) => numbers.reduce((a, b) => (a > b ? a : b));

// The coefficients of 1, r, O, Or, I, Ir, IO, IOr, weighed.
function weigh(coefficients, I, O, r) {
  return sum(coefficients.map((c, i) =>
    BigInt(c) * (i & 4 ? I : 1n) * (i & 2 ? O : 1n) * (i & 1 ? r : 1n)));
}

// The numbers that a technique trains and writes to disk. linears: {O, I, times} of the adapted.
function numbers(technique, linears, rank) {
  const each = (name) =>
    sum(linears.map(({ O, I, times }) => times * weigh(technique[name], I, O, rank)));
  const most = (axis) => largest(linears.map((linear) => linear[axis]));
  const shared = weigh(technique.shared, most("I"), most("O"), rank);
  const disk = each("on_disk") + (technique.disk_has_shared ? shared : 0n);
  return { trained: each("trained"), frozen: each("frozen"), shared, disk };
}

// {name: {O, I, times}}: the linears of a Llama.
function linearsOf(config) {
  const axes = widths(config);
  const found = {};
  for (const [name, [O, I]] of Object.entries(TABLES.linears)) {
    found[name] = { O: axes[O], I: axes[I], times: axes.L };
  }
  return found;
}

function widths(config) {
  const big = (name) => BigInt(config[name]);
  const D = big("head_dim"), H = big("num_attention_heads");
  return {
    1: 1n, C: big("hidden_size"), F: big("intermediate_size"), V: big("vocab_size"), H,
    Q: H * D, K: big("num_key_value_heads") * D, G: big("num_key_value_heads"), D, h: D / 2n,
    L: big("num_hidden_layers"),
  };
}

// Whose step it has, as `kind_of` in formulas.py.
function kindOf(config) {
  if (config.model_type === "mistral") return "llama";
  return config.model_type === "smollm3" && config.num_hidden_layers % 4 ? "llama"
    : config.model_type;
}

// All numbers of the ledger, as `evaluate` in formulas.py.
function bytes(config, method, rank, targets, batch, length, mixed) {
  const t = TABLES.methods[method], all = linearsOf(config), axes = widths(config);
  const L = axes.L, rows = batch * length, b = mixed ? SMALL : FLOAT;
  const least = (x, y) => (x < y ? x : y), chunk = BigInt(TABLES.chunk);
  const first = least(rows, chunk);
  Object.assign(axes, { M: rows, R1: first, R2: least(rows - first, chunk), r: rank });
  axes.g = batch > 1n ? axes.h : 0n;

  const sizes = TABLES.products.map(([x, y]) => axes[x] * axes[y]);
  const value = (terms) => {
    let found = 0n;
    for (let i = 0; i < terms.length; i += 3) {
      found += (BigInt(terms[i + 1]) + (L - 2n) * BigInt(terms[i + 2])) * sizes[terms[i]];
    }
    return found;
  };

  const names = Object.keys(all).filter((name) => t.whole || targets.includes(name));
  const linears = names.map((name) => all[name]);
  const count = numbers(t, linears, rank);
  const tied = config.tie_word_embeddings, kind = kindOf(config);
  const base = value(TABLES.base[kind]) - (tied ? axes.V * axes.C : 0n);
  const trained = t.whole ? base : count.trained;
  const adapted = sum(linears.map(({ O, I, times }) => times * O * I));
  const moved = t.moves ? adapted : 0n;
  const bits = Object.keys(all).reduce((n, name, i) => n + (names.includes(name) ? 1 << i : 0), 0);
  const formula = TABLES.formulas[TABLES.cases[kind][method][t.whole ? Number(tied) : bits - 1]];
  const valueOf = (number) => value(TABLES.sums[number]);
  const floats = b * valueOf(formula.floats);
  const beyond = b * largest((L === 1n ? formula.single : formula.beyond).map(valueOf));
  const found = {
    frozen: b * (t.whole ? 0n : base - moved + count.frozen),
    trainable: b * trained,
    shared: b * count.shared,
    moved: b * moved,
    gradients: b * trained,
    optimizer: (mixed ? 12n : 2n * b) * trained,
    activations: floats + INT * valueOf(formula.ids),
    scratch: 2n * b * axes.h * ((length > 64n ? length : 64n) + (batch > 1n ? rows : 0n)),
  };
  const weights = found.frozen + found.trainable + found.shared + found.moved;
  found.transient = floats + beyond - found.activations;
  found.peak = weights + found.optimizer + found.scratch + floats + beyond;
  found.base_kept = b * (t.whole ? base : moved);
  return { parts: found, trained, disk: t.whole ? base : count.disk, base };
}

// ---------------------------------------- what a reader gives

// A whole number of at least 1 as a BigInt; throws an Error in plain words.
function whole(text, name) {
  const trimmed = String(text).trim();
  if (!/^[0-9]{1,12}$/.test(trimmed) || BigInt(trimmed) < 1n) {
    throw new Error(`${name}: got "${trimmed.slice(0, 40)}", wanted a whole number of at least 1`);
  }
  return BigInt(trimmed);
}

// The sizes of a config.json; throws an Error that says what is wrong, as `read_config` does.
// RoPE's fields change no size, so they are not read.
function readConfig(text) {
  let given;
  if (!text.trim()) throw new Error("config.json: got nothing, wanted its text or the file");
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new Error(`config.json: this is not JSON (${error.message})`);
  }
  if (given === null || typeof given !== "object" || Array.isArray(given)) {
    throw new Error('config.json: got no object, wanted {"model_type": "llama", …}');
  }
  const shown = (value) => JSON.stringify(value).slice(0, 60);
  const known = Object.keys(TABLES.architectures);
  if (!known.includes(given.model_type)) {
    const got = given.model_type ? shown(given.model_type) : "none";
    throw new Error(`config.json: model_type: got ${got}, wanted one of ${known.join(", ")}`);
  }
  const architecture = TABLES.architectures[given.model_type];
  const fields = Object.fromEntries(Object.entries({ ...architecture.absent, ...given })
    .filter(([, value]) => value !== null));
  for (const [name, wanted] of Object.entries(architecture.supported)) {
    if (name in fields && fields[name] !== wanted) {
      throw new Error(`config.json: ${name}: got ${shown(fields[name])}, ` +
        `supported is ${shown(wanted)}`);
    }
  }
  const tied = fields.tie_word_embeddings ?? false;
  if (typeof tied !== "boolean") {
    throw new Error(`config.json: tie_word_embeddings: got ${shown(tied)}, wanted true or false`);
  }
  const found = { tie_word_embeddings: tied, model_type: fields.model_type };
  const size = (name, absent) => {
    const value = fields[name] ?? absent;
    if (value === undefined) throw new Error(`config.json: ${name} is missing`);
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new Error(`config.json: ${name}: got ${shown(value)}, ` +
        "wanted a whole number of at least 1");
    }
    found[name] = value;
    return value;
  };
  for (const name of ["vocab_size", "intermediate_size", "num_hidden_layers"]) size(name);
  const C = size("hidden_size"), H = size("num_attention_heads");
  const G = size("num_key_value_heads", H);
  if (!fields.head_dim && C % H) {
    throw new Error(`config.json: hidden_size ${C} is not a multiple of ${H} heads`);
  }
  const D = fields.head_dim ? size("head_dim") : (found.head_dim = C / H);
  if (H % G) throw new Error(`config.json: ${H} query heads are not a multiple of ${G} key heads`);
  if (D % 2) throw new Error(`config.json: head_dim is ${D}, wanted an even number`);
  if ("max_position_embeddings" in fields) size("max_position_embeddings");
  if (architecture.own.includes("sliding_window") && "sliding_window" in fields) {
    size("sliding_window");
  }
  const rotate = fields.no_rope_layers ?? [], interval = fields.no_rope_layer_interval ?? 4;
  if (architecture.own.includes("no_rope_layers")
    && (interval !== 4 || rotate.some((does, i) => does != (i % 4 < 3)))) {
    throw new Error("config.json: no_rope_layers: supported is every fourth layer without a rotation");
  }
  return found;
}

// ---------------------------------------- the page

const OWN = "own", MEMORIES = [8, 16, 24, 80]; // GB of 10^9 bytes
const $ = (id) => document.getElementById(id);
const grouped = (number) => number.toString().replace(/\B(?=(\d{3})+$)/g, ",");

// Bytes with three digits: 9.32 MiB.
function human(number) {
  let size = Number(number), unit = 0;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  while (size >= 999.5 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return `${unit ? size.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0) : size} ${units[unit]}`;
}

// An element with attributes, text and children.
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The model that is chosen: {config} of a Llama, or {linears} of another Transformer.
function chosenModel() {
  if ($("model").value === OWN) return { config: readConfig($("config").value) };
  return TABLES.shapes[$("model").value];
}

function linearsOfModel(model) {
  if (model.config) return linearsOf(model.config);
  return Object.fromEntries(model.linears.map(([name, O, I, times]) =>
    [name, { O: BigInt(O), I: BigInt(I), times: BigInt(times) }]));
}

function showTargets(names) {
  const before = [...document.querySelectorAll("#linears input")];
  if (before.map((box) => box.value).join() === names.join()) return;
  const checked = new Set(before.length ? before.filter((b) => b.checked).map((b) => b.value)
    : TABLES.targets);
  $("linears").replaceChildren(...names.map((name) => {
    const box = make("input", { type: "checkbox", value: name });
    box.checked = checked.has(name);
    return make("label", {}, box, ` ${name}`);
  }));
}

function tick(chosen) {
  for (const box of document.querySelectorAll("#linears input")) box.checked = chosen(box.value);
  update();
}

function row(name, meaning, value, unit) {
  const exact = make("td", { class: "number", "data-name": name, "data-value": value.toString() },
    grouped(value));
  return make("tr", {}, make("th", { scope: "row" }, name.replace("_", " ")),
    make("td", {}, meaning), exact, make("td", { class: "number" }, unit ? human(value) : ""));
}

function table(caption, rows) {
  const head = ["", "what it is", "exactly", "about"].map((text) =>
    text ? make("th", { scope: "col" }, text) : make("td", {}));
  const inside = make("table", { class: "table" }, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("div", { class: "calculator-table", tabindex: "0", role: "region",
    "aria-label": caption }, inside);
}

function verdicts(peak) {
  const cells = MEMORIES.map((gigabytes) => {
    const fits = peak <= BigInt(gigabytes) * 10n ** 9n;
    return make("li", { class: fits ? "fits" : "fits-not", "data-fits": `${gigabytes} ${fits}` },
      make("strong", {}, `${gigabytes} GB`), fits ? " ✓ it fits" : " ✗ it does not fit");
  });
  return make("ul", { class: "calculator-fits" }, ...cells);
}

// The numbers of what trains, whatever the model; with a Llama also the bytes of a step.
function answer() {
  const model = chosenModel(), all = linearsOfModel(model);
  showTargets(Object.keys(all));
  const method = $("method").value, t = TABLES.methods[method];
  $("rank").disabled = t.rank === null;
  $("targets").disabled = t.whole;
  const rank = t.rank === null ? 1n : whole($("rank").value, "Rank");
  const batch = whole($("batch").value, "Rows of a batch");
  const length = whole($("length").value, "Tokens of a row");
  const boxes = [...document.querySelectorAll("#linears input")];
  const targets = boxes.filter((box) => t.whole || box.checked).map((box) => box.value);
  if (!targets.length) throw new Error("Adapted linears: got none, wanted at least one");
  const counted = (trained, disk) => [
    row("trained numbers", t.whole && !model.config ? "of the linears alone" : "what AdamW moves",
      trained),
    row("adapter file", "its arrays in 32 bits, without the header", FLOAT * disk, true),
  ];
  if (!model.config) {
    const found = numbers(t, targets.map((name) => all[name]), rank);
    return [
      table("What trains", counted(found.trained, found.disk)),
      make("p", {}, `${$("model").value} is not a Llama, so its activations are not known here.`),
    ];
  }
  const mixed = $("precision").value === "mixed";
  const found = bytes(model.config, method, rank, targets, batch, length, mixed);
  const meanings = { ...TABLES.parts, activations: "saved for backward" };
  if (mixed) meanings.optimizer = "a 32-bit master copy and two moments";
  const { max_position_embeddings: positions, sliding_window: window } = model.config;
  const made = Math.min(positions ?? Infinity, window ?? Infinity);
  const long = Number(length) > made
    ? [make("p", {}, `The model was made for rows of ${grouped(BigInt(made))} tokens.`)] : [];
  return [
    make("p", {}, make("strong", {}, `${human(found.parts.peak)}`),
      ` at the peak of a training step, of ${grouped(found.base)} numbers in the model.`),
    verdicts(found.parts.peak), ...long,
    table("What trains", counted(found.trained, found.disk)),
    table("Bytes of a training step", Object.entries(found.parts).map(([name, value]) =>
      row(name, meanings[name], value, true))),
  ];
}

function update() {
  $("own").hidden = $("model").value !== OWN;
  let shown = [];
  $("error").hidden = true;
  try {
    shown = answer();
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
  }
  $("answer").replaceChildren(...shown);
}

function start() {
  for (const name of Object.keys(TABLES.shapes)) $("model").append(new Option(name, name));
  $("model").append(new Option("a config.json of your own", OWN));
  $("model").value = "smollm2-135m";
  for (const [name, t] of Object.entries(TABLES.methods)) $("method").append(new Option(t.title, name));
  $("method").value = "lora";
  const defaultRank = () => { $("rank").value = TABLES.methods[$("method").value].rank ?? "–"; };
  defaultRank();
  $("method").addEventListener("change", () => { defaultRank(); update(); });
  $("calculator").addEventListener("input", update);
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    if (file) $("config").value = await file.text();
    update();
  });
  $("all").addEventListener("click", () => tick(() => true));
  $("default").addEventListener("click", () => tick((name) => TABLES.targets.includes(name)));
  update();
}

start();
