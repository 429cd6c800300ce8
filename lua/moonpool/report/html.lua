-- moonpool/report/html.lua: one page that works offline: summary, timeline of the pool (zoom, pick a job), where the time
-- goes, how executions are spread, the cache with reasons, and the sheet that was asked for. Inline SVG and a little script
-- of ours. Names come from anybody: they are text everywhere, never markup.
local core = require "moonpool.core"
local answers = require "moonpool.report.answers"
local render = require "moonpool.report.render"

local MOST_NODES = 400000                                    -- nodes in the page; of more jobs only the last ones have theirs

local escapes = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }
local function text(v) return (render.harmless(v):gsub("[&<>\"']", escapes)) end

-- JSON that may stand inside a script element: no < can end it.
local function data(v) return (core.json.encode(v):gsub("<", "\\u003c"):gsub("\226\128[\168\169]", "")) end

local function table_of(part, id)
  local out = { ('<table id="%s"><thead><tr>'):format(id) }
  for _, c in ipairs(part.columns) do out[#out + 1] = ('<th scope="col"%s>%s</th>'):format(c[4] and "" or ' class="n"', text(c[1])) end
  out[#out + 1] = "</tr></thead><tbody>\n"
  for i = 1, math.min(#part.rows, 500) do
    local row = part.rows[i]
    out[#out + 1] = "<tr>"
    for _, c in ipairs(part.columns) do
      local v = c[3](row[c[2]])
      local class = not c[4] and "n" or (v == "slower" or v == "faster") and v or nil
      out[#out + 1] = ("<td%s>%s</td>"):format(class and (' class="%s"'):format(class) or "", text(v))
    end
    out[#out + 1] = "</tr>\n"
  end
  out[#out + 1] = "</tbody></table>\n"
  if #part.rows > 500 then out[#out + 1] = ("<p>%d more rows: csv and json have them all.</p>\n"):format(#part.rows - 500) end
  return table.concat(out)
end

local function sheet_of(sheet, id)
  local out = { ('<section id="%s"><h2>%s</h2>\n'):format(id, text(sheet.title)) }
  for i, part in ipairs(sheet.parts) do
    if part.facts then
      out[#out + 1] = "<dl>"
      for _, f in ipairs(part.facts) do out[#out + 1] = ("<div><dt>%s</dt><dd>%s</dd></div>"):format(text(f[1]), text(f[2])) end
      out[#out + 1] = "</dl>\n"
    else
      out[#out + 1] = ("<h3>%s</h3>\n"):format(text(part.title))
      if part.lines then
        out[#out + 1] = "<ul>"
        for _, l in ipairs(part.lines) do out[#out + 1] = ("<li>%s</li>"):format(text(l)) end
        out[#out + 1] = "</ul>\n"
      else out[#out + 1] = table_of(part, id .. i) end
    end
  end
  out[#out + 1] = "</section>\n"
  return table.concat(out)
end

-- How long executions take, by workflow: bars of equal width.
local function spread(runs)
  local by, order = {}, {}
  for i = 1, #runs do
    local r = runs[i]
    if r.startedAt and type(r.executionTime) == "number" then
      if not by[r.structureHash] then
        by[r.structureHash] = {}
        order[#order + 1] = r.structureHash
      end
      table.insert(by[r.structureHash], r.executionTime)
    end
  end
  table.sort(order, function(a, b) return #by[a] > #by[b] or (#by[a] == #by[b] and a < b) end)
  local out = { '<section id="spread"><h2>How executions are spread</h2>\n' }
  for k = 1, math.min(#order, 8) do
    local v = by[order[k]]
    table.sort(v)
    local low, high, bins, most = v[1], v[math.max(1, math.ceil(#v * 0.99))], {}, 0
    local width = (high - low) / 40
    for b = 1, 40 do bins[b] = 0 end
    for _, t in ipairs(v) do
      local b = width > 0 and math.min(40, math.floor((t - low) / width) + 1) or 1
      bins[b] = bins[b] + 1
      most = math.max(most, bins[b])
    end
    local bars = {}
    for b, n in ipairs(bins) do
      local h = n / most * 80
      if n > 0 then
        bars[#bars + 1] = ('<rect x="%d" y="%.1f" width="9" height="%.1f"><title>%s to %s: %d</title></rect>'):format((b - 1) * 10, 80 - h, h,
          text(answers.time(low + (b - 1) * width)), text(answers.time(low + b * width)), n)
      end
    end
    out[#out + 1] = ('<figure><figcaption>Workflow %s: %d runs, %s to %s%s</figcaption><svg class="bars" viewBox="0 0 400 80" role="img" aria-label="distribution of execution times">%s</svg></figure>\n'):format(
      text(order[k]:sub(1, 10)), #v, text(answers.time(low)), text(answers.time(high)), v[#v] > high and (", one per cent up to " .. text(answers.time(v[#v]))) or "", table.concat(bars))
  end
  out[#out + 1] = "</section>\n"
  return table.concat(out)
end

-- What the timeline needs: names once, numbers in lists.
local function timeline(runs)
  local names, index = {}, {}
  local function name(v)
    v = render.harmless(v or "")
    if not index[v] then
      names[#names + 1] = v
      index[v] = #names - 1
    end
    return index[v]
  end
  local first, jobs, clients, known, nodes = math.huge, {}, {}, {}, 0
  for i = 1, #runs do first = math.min(first, runs[i].queuedAt) end
  local function at(ms) return ms and math.floor((ms - first) * 1000 + 0.5) / 1000 or -1 end
  for i = #runs, 1, -1 do
    local r, list = runs[i], {}
    if nodes + #r.nodes <= MOST_NODES then
      nodes = nodes + #r.nodes
      for _, n in ipairs(r.nodes) do
        list[#list + 1] = name(n.type or n.nodeId)
        list[#list + 1] = name(n.nodeId)
        list[#list + 1] = at(n.startedAt)
        list[#list + 1] = type(n.duration) == "number" and n.duration or -1
        list[#list + 1] = n.status == "cached" and 1 or n.status == "failed" and 2 or n.status == "pending" and 3 or 0
      end
    end
    if r.startedAt and not known[r.client or ""] then
      known[r.client or ""] = true
      clients[#clients + 1] = r.client or ""
    end
    jobs[i] = { name(r.jobId), name(r.client), name((r.structureHash or ""):sub(1, 10)), name(r.jobStatus), at(r.queuedAt), at(r.startedAt), at(r.completedAt), core.json.array(list) }
  end
  table.sort(clients)
  for i, c in ipairs(clients) do clients[i] = name(c) end
  return { names = core.json.array(names), clients = core.json.array(clients), jobs = core.json.array(jobs) }
end

local style = [[
:root { color-scheme: light dark; --fg: #1d2329; --bg: #fff; --soft: #5b6671; --line: #d8dee4; --bar: #2f6fb2; --wait: #c9d6e4; --bad: #b3261e; --good: #1b7a3d; --pick: #e0a100; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6eaee; --bg: #15191d; --soft: #9aa6b2; --line: #333c45; --bar: #6aa5e0; --wait: #38485a; --bad: #ff8a80; --good: #7fd69b; --pick: #ffd166; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg); margin: 0 auto; max-width: 1100px; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); } h3 { font-size: 1rem; margin-bottom: .3rem; }
nav a { margin-right: 1rem; } a { color: var(--bar); }
table { border-collapse: collapse; font-size: .87rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .15rem .7rem .15rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; } td.slower { color: var(--bad); } td.faster { color: var(--good); }
dl { display: flex; flex-wrap: wrap; gap: .3rem 2rem; margin: .5rem 0; } dt { color: var(--soft); font-size: .8rem; } dd { margin: 0; font-size: 1.1rem; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; width: 480px; max-width: 100%; }
figcaption { font-size: .85rem; color: var(--soft); } .bars { width: 100%; border-bottom: 1px solid var(--line); } .bars rect { fill: var(--bar); }
#chart { width: 100%; height: auto; touch-action: none; user-select: none; outline-offset: 2px; }
#chart text { fill: var(--soft); font-size: 11px; } #chart .run { fill: var(--bar); } #chart .bad { fill: var(--bad); } #chart .wait { fill: var(--wait); }
#chart .many { fill: var(--bar); opacity: .8; } #chart .picked { stroke: var(--pick); stroke-width: 2; } #chart line { stroke: var(--line); }
.controls button { font: inherit; margin-right: .3rem; } #picked { min-height: 6rem; } #nodes .cached { color: var(--soft); } #nodes .failed { color: var(--bad); }
]]

local script = [==[
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const svg = document.getElementById("chart"), picked = document.getElementById("picked"), NS = "http://www.w3.org/2000/svg";
const LEFT = 130, WIDTH = 1060, ROW = 26, TOP = 20, jobs = D.jobs;
let end = 1;
for (const j of jobs) end = Math.max(end, j[6]);
const lanes = new Map(D.clients.map((c, i) => [c, i]));
const byClient = D.clients.map(() => []);
jobs.forEach((j, i) => { if (j[5] >= 0 && lanes.has(j[1])) byClient[lanes.get(j[1])].push(i); });
byClient.forEach(list => list.sort((a, b) => jobs[a][5] - jobs[b][5]));
const height = TOP + ROW * D.clients.length + 30;
svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
let from = 0, to = end, current = -1;
function duration(ms) { return ms < 1000 ? ms.toFixed(1) + " ms" : ms < 120000 ? (ms / 1000).toFixed(2) + " s" : (ms / 60000).toFixed(1) + " min"; }
function make(name, at, parent) { const e = document.createElementNS(NS, name); for (const k in at) e.setAttribute(k, at[k]); (parent || svg).appendChild(e); return e; }
function x(t) { return LEFT + (t - from) / (to - from) * (WIDTH - LEFT); }
function box(cls, a, b, y, h, i) {
  const l = Math.max(LEFT, x(a)), r = Math.min(WIDTH, x(b));
  if (r < LEFT || l > WIDTH) return;
  const e = make("rect", { class: cls, x: l, y, width: Math.max(.6, r - l), height: h });
  if (i !== undefined) { e.dataset.job = i; if (i === current) e.classList.add("picked"); }
}
function draw() {
  svg.replaceChildren();
  for (let k = 0; k <= 6; k++) {
    const t = from + (to - from) * k / 6;
    make("line", { x1: x(t), x2: x(t), y1: TOP - 4, y2: height - 24 });
    make("text", { x: x(t), y: height - 8, "text-anchor": k === 6 ? "end" : k ? "middle" : "start" }).textContent = "+" + duration(t);
  }
  D.clients.forEach((c, row) => {
    const y = TOP + row * ROW, label = make("text", { x: 0, y: y + 14 });
    label.textContent = D.names[c].length > 20 ? D.names[c].slice(0, 19) + "\u2026" : D.names[c];
    const list = byClient[row], step = (to - from) / (WIDTH - LEFT);
    let low = 0, high = list.length;                    // the first job that ends in sight: they are in the order of their starts
    while (low < high) { const m = (low + high) >> 1; if (jobs[list[m]][6] < from) low = m + 1; else high = m; }
    let many = null;
    for (let k = low; k < list.length; k++) {
      const j = jobs[list[k]];
      if (j[5] > to) break;
      if (j[6] - j[5] < step && list[k] !== current) {  // too thin to be seen alone: drawn together
        if (many && j[5] - many[1] <= step) { many[1] = Math.max(many[1], j[6]); continue; }
        if (many) box("many", many[0], many[1], y, 16);
        many = [j[5], j[6]];
        continue;
      }
      if (many) { box("many", many[0], many[1], y, 16); many = null; }
      box("wait", j[4], j[5], y + 17, 4);
      box(D.names[j[3]] === "completed" ? "run" : "bad", j[5], j[6], y, 16, list[k]);
    }
    if (many) box("many", many[0], many[1], y, 16);
  });
}
function pick(i) {
  current = i;
  const j = jobs[i], n = j[7], rows = [];
  picked.replaceChildren();
  const h = document.createElement("h3");
  h.textContent = `Job ${D.names[j[0]]}: ${D.names[j[3]]} on ${D.names[j[1]]}, waited ${duration(j[5] - j[4])}, ran ${duration(j[6] - j[5])}, workflow ${D.names[j[2]]}`;
  picked.appendChild(h);
  for (let k = 0; k < n.length; k += 5) rows.push({ type: D.names[n[k]], id: D.names[n[k + 1]], at: n[k + 2], took: n[k + 3], status: ["", "cached", "failed", "not reached"][n[k + 4]] });
  rows.sort((a, b) => (a.at < 0) - (b.at < 0) || a.at - b.at);
  const t = document.createElement("table");
  t.id = "nodes";
  for (const r of rows) {
    const tr = t.insertRow();
    if (r.status) tr.className = r.status;
    for (const v of [r.at < 0 ? "" : "+" + duration(r.at - j[5]), `${r.type} (${r.id})`, r.took < 0 ? "" : duration(r.took), r.status]) tr.insertCell().textContent = v;
  }
  picked.appendChild(t);
  draw();
}
function zoom(factor, middle) {
  const span = Math.min(end, Math.max(end / 1e6, (to - from) * factor)), part = (middle - from) / (to - from);
  from = Math.max(0, Math.min(end - span, middle - span * part));
  to = from + span;
  draw();
}
function move(part) { const span = to - from; from = Math.max(0, Math.min(end - span, from + span * part)); to = from + span; draw(); }
function step(d) {
  if (!jobs.length) return;
  let i = current < 0 ? (d > 0 ? 0 : jobs.length - 1) : current + d;
  while (i >= 0 && i < jobs.length && jobs[i][5] < 0) i += d;
  if (i < 0 || i >= jobs.length) return;
  if (jobs[i][6] < from || jobs[i][5] > to) { const span = to - from; from = Math.max(0, Math.min(end - span, jobs[i][5] - span / 2)); to = from + span; }
  pick(i);
}
function time(e) { const r = svg.getBoundingClientRect(); return from + Math.max(0, (e.clientX - r.left) / r.width * WIDTH - LEFT) / (WIDTH - LEFT) * (to - from); }
svg.addEventListener("click", e => { if (e.target.dataset.job !== undefined) pick(+e.target.dataset.job); });
svg.addEventListener("wheel", e => { e.preventDefault(); zoom(e.deltaY > 0 ? 1.25 : .8, time(e)); }, { passive: false });
let drag = null;
svg.addEventListener("pointerdown", e => { drag = { at: e.clientX, from, to }; });
window.addEventListener("pointerup", () => { drag = null; });
svg.addEventListener("pointermove", e => {
  if (!drag || Math.abs(e.clientX - drag.at) < 4) return;
  const r = svg.getBoundingClientRect(), span = drag.to - drag.from, d = (drag.at - e.clientX) / r.width * WIDTH / (WIDTH - LEFT) * span;
  from = Math.max(0, Math.min(end - span, drag.from + d)); to = from + span; draw();
});
const keys = {
  "+": () => zoom(.5, (from + to) / 2), "-": () => zoom(2, (from + to) / 2), "0": () => { from = 0; to = end; draw(); },
  ArrowLeft: () => move(-.2), ArrowRight: () => move(.2), n: () => step(1), p: () => step(-1),
};
svg.addEventListener("keydown", e => { if (keys[e.key]) { e.preventDefault(); keys[e.key](); } });
for (const b of document.querySelectorAll("[data-key]")) b.addEventListener("click", () => keys[b.dataset.key]());
draw();
]==]

-- The page of these runs; `sheet` is the one that was asked for, shown when the page does not have it anyhow.
return function(runs, sheet)
  local own = { answers.slow(runs), answers.cache(runs), answers.progress(runs), answers.timeline(runs) }
  local titles = {}
  for _, s in ipairs(own) do titles[s.title] = true end
  if sheet.by and sheet.by ~= own[1].by then titles[sheet.title] = nil end
  local good = runs:completed()
  local span = own[4].answer.to and own[4].answer.to - own[4].answer.from
  local out = { '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Moonpool report</title><style>\n', style,
    '</style></head><body>\n<h1>Moonpool report</h1>\n<nav aria-label="sections">',
    '<a href="#pool">Timeline</a><a href="#slow">Slow</a><a href="#spread">Spread</a><a href="#cache">Cache</a><a href="#progress">Progress</a><a href="#clients">Clients</a>',
    not titles[sheet.title] and '<a href="#asked">' .. text(sheet.title) .. "</a>" or "", "</nav>\n<dl>" }
  for _, f in ipairs { { "Runs", tostring(#runs) }, { "Completed", tostring(good) }, { "Failed or canceled", tostring(#runs - good) }, { "From first to last", answers.time(span) },
    { "Execution time", answers.time(own[1].answer.total) }, { "Cache hit rate", answers.share(own[2].answer.hitRate) } } do
    out[#out + 1] = ("<div><dt>%s</dt><dd>%s</dd></div>"):format(text(f[1]), text(f[2]))
  end
  out[#out + 1] = "</dl>\n"
  if not titles[sheet.title] then out[#out + 1] = sheet_of(sheet, "asked") end
  out[#out + 1] = [[<section id="pool"><h2>Timeline of the pool</h2>
<p class="controls"><button type="button" data-key="+">Zoom in</button><button type="button" data-key="-">Zoom out</button>
<button type="button" data-key="ArrowLeft">Earlier</button><button type="button" data-key="ArrowRight">Later</button><button type="button" data-key="0">All</button>
<button type="button" data-key="p">Previous job</button><button type="button" data-key="n">Next job</button></p>
<p>A row per client; below each run, how long it had waited. Click a run to see its nodes. Wheel or + and - zoom, arrows move, 0 shows all, n and p step through jobs.</p>
<svg id="chart" tabindex="0" role="application" aria-label="timeline of the pool: plus and minus zoom, arrows move, n and p pick the next and previous job"></svg>
<div id="picked" aria-live="polite"></div></section>
]]
  out[#out + 1] = sheet_of(own[1], "slow") .. spread(runs) .. sheet_of(own[2], "cache") .. sheet_of(own[3], "progress") .. sheet_of(own[4], "clients")
  out[#out + 1] = '<script id="data" type="application/json">' .. data(timeline(runs)) .. "</script>\n<script>\n" .. script .. "</script>\n</body></html>\n"
  return table.concat(out)
end
