// The site's checks in headless Chromium: node check.mjs HTML-FOLDER CASES.json [SCREENSHOTS]
//
// Every page at 1280 and 400 pixels: no request that fails or leaves the machine, no error of a script,
// no formula that is not drawn, no empty figure, no link or anchor that leads nowhere, nothing wider
// than the page, and axe-core's rules of contrast, alternative texts, labels and names. The search
// finds a word. The calculator gives the ledger's bytes for every case of CASES.json, and an answer in
// words for what is wrong. The pages are opened as files, as a reader without a server opens them.

import { mkdirSync, readdirSync, readFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [html, casesFile, shots] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");

const WIDTHS = [1280, 400];
const RULES = ["color-contrast", "image-alt", "svg-img-alt", "role-img-alt", "label", "select-name",
  "button-name", "link-name", "document-title", "html-has-lang", "aria-allowed-attr",
  "aria-valid-attr-value", "scrollable-region-focusable"];
const SHOWN = ["index", "notebooks/04_lora", "techniques/lora", "docs/claims", "calculator"];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const problems = [];
const root = resolve(html);
const address = (page) => pathToFileURL(join(root, page)).href;

function pagesIn(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return entry.name.startsWith("_") ? [] : pagesIn(path);
    return entry.name.endsWith(".html") ? [relative(root, path)] : [];
  }).sort();
}

// Notes requests that fail or leave the machine, and errors of scripts.
async function open(browser, width) {
  const page = await browser.newPage({ viewport: { width, height: 900 } });
  const note = (text) => problems.push(`${relative(root, new URL(page.url()).pathname)} ${width}: ${text}`);
  page.on("requestfailed", (r) => note(`request failed: ${r.url()} ${r.failure()?.errorText}`));
  page.on("request", (r) => {
    if (!/^(file|data|blob):/.test(r.url())) note(`a request leaves the machine: ${r.url()}`);
  });
  page.on("pageerror", (error) => note(`script: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error") note(`console: ${message.text()}`);
  });
  return page;
}

// What is wrong in the page that is open. Links are checked by `links`.
function faults() {
  const found = [];
  const say = (text, element) => found.push(`${text}: ${(element.outerHTML ?? "").slice(0, 120)}`);
  for (const image of document.images) {
    if (!image.complete || !image.naturalWidth) say("empty figure", image);
    if (!image.alt && !image.closest("[aria-hidden=true]")) say("figure without words", image);
  }
  for (const formula of document.querySelectorAll(".math")) {
    if (!formula.querySelector("mjx-container svg")) say("formula not drawn", formula);
  }
  for (const error of document.querySelectorAll("mjx-merror, [data-mml-node=merror], .system-message")) {
    say("formula or text with an error", error);
  }
  const seen = [...document.querySelectorAll(".search-button__button")].filter((button) =>
    button.checkVisibility({ visibilityProperty: true }) && button.getBoundingClientRect().right > 0);
  if (seen.length !== 1) found.push(`${seen.length} buttons for the search, wanted one`);
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 1) found.push(`the page is ${wide} pixels wider than the screen`);
  return found;
}

// The widths side by side: each has a page of the browser, and so a process.
async function checkPages(browser, pages) {
  const links = new Map(); // target -> a page that has it
  const anchors = new Map();
  await Promise.all(WIDTHS.map(async (width) => {
    const page = await open(browser, width);
    for (const name of pages) {
      await page.goto(address(name));
      await page.evaluate(() => window.MathJax?.startup?.promise);
      const note = (text) => problems.push(`${name} ${width}: ${text}`);
      (await page.evaluate(faults)).forEach(note);
      await page.evaluate(axe);
      const { violations } = await page.evaluate((values) =>
        window.axe.run({ exclude: [["mjx-container"]] }, { runOnly: { type: "rule", values } }), RULES);
      for (const v of violations) {
        const [node] = v.nodes;
        note(`axe ${v.id} (${v.nodes.length}): ${node.html.slice(0, 160)} ${node.failureSummary.split("\n")[1] ?? ""}`);
      }
      if (shots && SHOWN.includes(name.replace(".html", ""))) {
        const file = `${name.replace(".html", "").replaceAll("/", "-")}-${width}.png`;
        await page.screenshot({ path: join(shots, file), fullPage: true });
      }
      if (width !== WIDTHS[0]) continue;
      anchors.set(address(name), new Set(await page.evaluate(() =>
        [...document.querySelectorAll("[id], a[name]")].map((e) => e.id || e.name))));
      for (const href of await page.evaluate(() => [...document.links].map((a) => a.href))) {
        if (!links.has(href)) links.set(href, name);
      }
    }
    await page.close();
  }));
  for (const [href, name] of links) {
    if (!href.startsWith("file:")) continue; // another site, which is not asked
    const url = new URL(href), id = decodeURIComponent(url.hash.slice(1));
    url.hash = url.search = "";
    if (!existsSync(new URL(url))) problems.push(`${name}: dead link ${relative(root, url.pathname)}`);
    else if (id && anchors.has(url.href) && !anchors.get(url.href).has(id)) {
      problems.push(`${name}: no place #${id} in ${relative(root, url.pathname)}`);
    }
  }
  return links.size;
}

async function checkSearch(browser) {
  const page = await open(browser, WIDTHS[0]);
  await page.goto(`${address("search.html")}?q=telescoping`);
  await page.waitForSelector("#search-results li", { timeout: 20000 }).catch(() =>
    problems.push('search: nothing found for "telescoping"'));
  await page.close();
}

// ---------------------------------------- the calculator

// Runs in the page: fills its fields as a reader does, and gives what it then shows.
function calculate(cases) {
  const $ = (id) => document.getElementById(id);
  const set = (id, value, event = "input") => {
    $(id).value = value;
    $(id).dispatchEvent(new Event(event, { bubbles: true }));
  };
  return cases.map((c) => {
    set("model", c.model);
    if (c.config !== undefined) set("config", c.config);
    set("method", c.method, "change");
    for (const name of ["rank", "batch", "length", "precision"]) {
      if (c[name] !== undefined && !$(name).disabled) set(name, c[name]);
    }
    for (const box of document.querySelectorAll("#linears input")) {
      if (c.targets && box.checked !== c.targets.includes(box.value)) box.click();
    }
    const cells = [...document.querySelectorAll("#answer [data-name]")];
    const fits = [...document.querySelectorAll("#answer [data-fits]")];
    return {
      values: Object.fromEntries(cells.map((cell) => [cell.dataset.name, cell.dataset.value])),
      shown: cells.every((cell) => cell.textContent.replaceAll(",", "") === cell.dataset.value),
      fits: fits.map((item) => item.dataset.fits),
      error: $("error").hidden ? "" : $("error").textContent,
    };
  });
}

async function checkCalculator(browser, cases) {
  const page = await open(browser, WIDTHS[1]);
  await page.goto(address("calculator.html"));
  const answers = await page.evaluate(calculate, cases);
  cases.forEach((c, i) => {
    const got = answers[i];
    const note = (text) => problems.push(`calculator, case ${i}: ${text} (${JSON.stringify(c).slice(0, 300)})`);
    if (c.error) {
      if (!got.error.includes(c.error)) note(`says "${got.error}", wanted "${c.error}"`);
      return;
    }
    if (got.error) return note(got.error);
    if (!got.shown) note("a cell shows another number than it has");
    for (const [name, value] of Object.entries(c.wanted)) {
      if (got.values[name] !== String(value)) note(`${name} is ${got.values[name]}, the ledger has ${value}`);
    }
    if (c.fits && got.fits.join() !== c.fits.join()) note(`fits: ${got.fits}, wanted ${c.fits}`);
  });
  // by keyboard alone: the technique is chosen with an arrow key, a target with the space bar
  await page.goto(address("calculator.html"));
  const peak = () => page.getAttribute('[data-name="peak"]', "data-value");
  const before = await peak();
  await page.focus("#method");
  await page.keyboard.press("ArrowDown");
  const after = await peak();
  await page.focus("#linears input");
  await page.keyboard.press("Space");
  if (before === after || after === await peak()) problems.push("calculator: the keyboard changes nothing");
  await page.close();
}

// ---------------------------------------- all of it

if (shots) mkdirSync(shots, { recursive: true });
const start = Date.now();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
try {
  const only = new RegExp(process.env.PAGES ?? ""); // PAGES=calculator: that page alone
  const pages = pagesIn(root).filter((name) => only.test(name)), cases = JSON.parse(readFileSync(casesFile, "utf8"));
  const links = await checkPages(browser, pages);
  await checkSearch(browser);
  await checkCalculator(browser, cases);
  const seconds = Math.round((Date.now() - start) / 1000);
  console.log(`${pages.length} pages at ${WIDTHS.join(" and ")} pixels, ${links} links, ` +
    `${cases.length} cases of the calculator, in ${seconds} s`);
} catch (error) {
  problems.push(`the check itself ended: ${error.message}`);
} finally {
  await browser.close();
}
for (const problem of problems.slice(0, 60)) console.error(problem);
if (problems.length) console.error(`${problems.length} problems`);
process.exitCode = problems.length ? 1 : 0;
