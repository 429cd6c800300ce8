-- moonpool/report/text.lua: one job's profile as text: totals, nodes, slowest, progress, timeline, cache.
local harmless = require "moonpool.report.render".harmless              -- names come from anybody

local function ms(v) return v and ("%.1f ms"):format(v) or "-" end
local function share(part, whole) return whole > 0 and math.floor(part / whole * 100 + 0.5) or 0 end
local function label(n) return n.title and ("%s \"%s\""):format(n.type, n.title) or n.type end

local function totals(p, add)
  add "Performance report"
  if p.jobId then add("  Job:         %s, %s%s", p.jobId, p.jobStatus or "?", p.label and (", " .. p.label) or "") end
  if p.jobError then add("  Error:       %s", (p.jobError:gsub("%s+$", ""):gsub("\n.*", " ..."))) end
  add("  Total time:  %s", ms(p.totalDuration))
  add("  Queue time:  %s (%d%%)", ms(p.queueTime), share(p.queueTime, p.totalDuration))
  add("  Execution:   %s (%d%%)", ms(p.executionTime), share(p.executionTime, p.totalDuration))
  if p.client then add("  Client:      %s, prompt %s, %d attempt%s", p.client, p.promptId, #p.attempts, #p.attempts == 1 and "" or "s") end
  if not p.exact then add("  Inferred:    %s", table.concat(p.inferred, ", ")) end
end

local function nodes(p, add)
  local s = p.summary
  add "Nodes"
  add("  Executed: %d   Cached: %d   Failed: %d   Not reached: %d   of %d", s.executedNodes, s.cachedNodes, s.failedNodes, s.pendingNodes, s.totalNodes)
  for _, n in ipairs(p.nodes) do
    if n.error then add("  %s (node %s) %s: %s", n.type, n.nodeId, n.status, (n.error:gsub("%s+$", ""):gsub("\n.*", " ..."))) end
  end
end

local function slowest(p, add)
  if #p.summary.slowestNodes == 0 then return end
  add "Slowest nodes"
  for i, n in ipairs(p.summary.slowestNodes) do
    add("  %d. %s (node %s): %s (%d%%)", i, label(n), n.nodeId, ms(n.duration), share(n.duration, p.executionTime))
  end
end

local function progress(p, add)
  local any = false
  for _, n in ipairs(p.nodes) do
    local events = n.progressEvents
    if events and #events > 0 then
      if not any then add "Progress" end
      any = true
      local first, last = events[1], events[#events]
      add("  %s (node %s): %s, %d events, %g/%g -> %g/%g%s", label(n), n.nodeId, ms(n.duration), #events + (n.progressDropped or 0), first.value, first.max,
        last.value, last.max, n.rate and (", %.2f steps/s"):format(n.rate) or "")
    end
  end
end

local function timeline(p, add)
  local ran = {}
  for _, n in ipairs(p.nodes) do
    if n.startedAt then ran[#ran + 1] = n end
  end
  if #ran == 0 then return end
  table.sort(ran, function(a, b) return a.startedAt < b.startedAt end)
  add "Timeline"
  for _, n in ipairs(ran) do
    add("  +%9s | %-8s | %s | %s", ("%.1f ms"):format(n.startedAt - p.startedAt), n.cached and "CACHED" or n.status == "failed" and "FAILED" or "EXECUTED", label(n), ms(n.duration))
  end
end

-- The nodes that the end waited for: each was begun when the one before it had ended.
local function critical(p, add)
  local by, names, total = {}, {}, 0
  for _, n in ipairs(p.nodes) do by[n.nodeId] = n end
  for _, id in ipairs(p.criticalPath or {}) do
    local n = by[id]
    if n and n.duration then
      names[#names + 1] = ("%s (node %s)"):format(n.type or "", id)
      total = total + n.duration
    end
  end
  if #names > 1 then add("Critical path: %s", ms(total)) else return end
  for _, name in ipairs(names) do add("  %s", name) end
end

local function cache(p, add)
  add("Cache hit rate: %d/%d nodes", p.summary.cachedNodes, p.summary.totalNodes)
  for _, n in ipairs(p.nodes) do
    if n.cached then add("  %s (node %s) CACHED", label(n), n.nodeId) end
  end
end

-- The report of one profile (result.profile), as text that ends with a line end.
return function(p)
  if type(p) ~= "table" or not p.summary then error("report.text: a profile expected (result.profile); is profiling off?", 2) end
  local lines = {}
  local function add(fmt, ...)
    local values = table.pack(...)
    for i = 1, values.n do
      if type(values[i]) == "string" then values[i] = harmless(values[i]) end
    end
    lines[#lines + 1] = values.n > 0 and fmt:format(table.unpack(values, 1, values.n)) or fmt
  end
  for _, part in ipairs { totals, nodes, slowest, progress, timeline, critical, cache } do part(p, add) end
  return table.concat(lines, "\n") .. "\n"
end
