-- moonpool/report/answers.lua: what many runs answer, as sheets: titles, facts and tables that any renderer can show.
--
-- A sheet is { title, answer, parts }: answer is the plain table of the figures, a part is
--   { facts = { {name, text}, ... } }
--   { title, columns = { {head, key, show, left} , ... }, rows = { table, ... } }   show: value -> text
--   { lines = { text, ... } }
local M = {}

-- ---- how figures are said ------------------------------------------------------------------------------------------

local function time(ms)
  if not ms then return "-" end
  if ms < 1000 then return ("%.1f ms"):format(ms) end
  if ms < 120000 then return ("%.2f s"):format(ms / 1000) end
  if ms < 7200000 then return ("%.1f min"):format(ms / 60000) end
  return ("%.1f h"):format(ms / 3600000)
end
local function share(v) return v and ("%.1f%%"):format(v * 100) or "-" end
local function change(v) return v and ("%+.1f%%"):format(v * 100) or "-" end
local function number(v) return v and (math.type(v) == "integer" and ("%d"):format(v) or ("%.3g"):format(v)) or "-" end
local function short_hash(h) return h and h:sub(1, 10) or "" end
local function plain(v) return v == nil and "" or tostring(v) end

local function skipped(runs, facts)
  local bad, newer = runs:skipped()
  if bad > 0 then facts[#facts + 1] = { "Lines skipped", ("%d that are no profile%s"):format(bad, newer > 0 and (", %d of them of a newer schema"):format(newer) or "") } end
  return facts
end

-- ---- slow ----------------------------------------------------------------------------------------------------------

local by_columns = {
  class = { { "node class", "type", plain, true } },
  node = { { "workflow", "structureHash", short_hash, true }, { "node", "nodeId", plain, true }, { "class", "type", plain, true } },
  client = { { "client", "client", plain, true } },
  workflow = { { "workflow", "structureHash", short_hash, true } },
}

-- Where the time goes. by: "class" (default), "node", "client" or "workflow".
function M.slow(runs, by)
  by = by or "class"
  local a = runs:slow(by)
  local columns = { table.unpack(by_columns[by]) }
  for _, c in ipairs { { "count", "count", number }, { "total", "total", time }, { "share", "share", share }, { "p50", "p50", time }, { "p90", "p90", time }, { "p99", "p99", time }, { "max", "max", time } } do
    columns[#columns + 1] = c
  end
  local cold, cold_columns = {}, { table.unpack(by_columns[by]) }
  for _, row in ipairs(a.rows) do
    if row.cold.count > 0 then
      local x = { cold_count = row.cold.count, cold = row.cold.p50, warm_count = row.warm.count, warm = row.warm.p50, extra = row.warm.p50 and math.max(0, row.cold.total - row.warm.p50 * row.cold.count) }
      for _, c in ipairs(by_columns[by]) do x[c[2]] = row[c[2]] end
      cold[#cold + 1] = x
    end
  end
  for _, c in ipairs { { "cold", "cold_count", number }, { "p50 cold", "cold", time }, { "warm", "warm_count", number }, { "p50 warm", "warm", time }, { "loading cost", "extra", time } } do
    cold_columns[#cold_columns + 1] = c
  end
  local never = a.runs < #runs and (", and %d jobs that never began"):format(#runs - a.runs) or ""
  local parts = { { facts = skipped(runs, { { "Runs", number(a.runs) .. never }, { "Execution time", time(a.total) } }) }, { title = "By " .. (by == "class" and "node class" or by), columns = columns, rows = a.rows } }
  if #cold > 0 then parts[#parts + 1] = { title = "Cold (the client ran other models before, or nothing) and warm", columns = cold_columns, rows = cold } end
  return { title = "Where the time goes", by = by, answer = a, parts = parts }
end

-- ---- cache ----------------------------------------------------------------------------------------------------------

local reason_words = {
  first = "first time", input = "its input changed", ancestor = "a node before it ran", evicted = "another workflow came in between", other_client = "it ran on another client before",
  unfinished = "the run before did not finish", never_cached = "never cached", unknown = "unknown",
}

local function reasons(r)
  local list = {}
  for name, n in pairs(r) do list[#list + 1] = { n, reason_words[name] or name } end
  table.sort(list, function(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] < b[2]) end)
  for i, x in ipairs(list) do list[i] = ("%d x %s"):format(x[1], x[2]) end
  return table.concat(list, ", ")
end

-- Hit rates, why nodes ran again, and what could be saved.
function M.cache(runs)
  local a = runs:cache()
  local hints = {}
  for _, n in ipairs(a.nodes) do
    local moved = (n.reasons.other_client or 0) + (n.reasons.evicted or 0)
    if n.wasted > 0 and #hints < 5 then
      hints[#hints + 1] = ("node %s %s ran %d times for %d distinct input%s; %s saves about %s"):format(n.nodeId, n.type or "", n.ran, n.distinct, n.distinct == 1 and "" or "s",
        moved * 2 >= n.repeated and "keeping these jobs on one client" or "sending equal ones one after the other", time(n.wasted))
    end
  end
  local columns = { { "workflow", "structureHash", short_hash, true }, { "node", "nodeId", plain, true }, { "class", "type", plain, true }, { "ran", "ran", number }, { "cached", "cached", number },
    { "hit rate", "hitRate", share }, { "distinct", "distinct", number }, { "wasted", "wasted", time } }
  local why = {}
  for _, n in ipairs(a.nodes) do why[#why + 1] = { nodeId = n.nodeId, type = n.type, structureHash = n.structureHash, why = reasons(n.reasons) } end
  local parts = {
    { facts = skipped(runs, { { "Runs", number(a.runs) }, { "Cache hit rate", ("%d of %d nodes (%s)"):format(a.cached, a.ran + a.cached, share(a.hitRate)) } }) },
    { title = "Nodes, most wasted first", columns = columns, rows = a.nodes },
    { title = "Why they ran", columns = { { "node", "nodeId", plain, true }, { "class", "type", plain, true }, { "times and reason", "why", plain, true } }, rows = why },
  }
  if #hints > 0 then parts[#parts + 1] = { title = "What would help", lines = hints } end
  return { title = "Cache", answer = a, parts = parts }
end

-- ---- progress --------------------------------------------------------------------------------------------------------

local function rate(v) return v and ("%.2f/s"):format(v) or "-" end

function M.progress(runs)
  local a = runs:progress()
  table.sort(a.rows, function(x, y) return (x.type or "") < (y.type or "") end)
  return { title = "Progress", answer = a, parts = {
    { title = "Steps per second", rows = a.rows, columns = { { "class", "type", plain, true }, { "nodes", "nodes", number }, { "first", "first", rate }, { "last", "last", rate },
      { "median", "median", rate }, { "slowest", "slowest", rate }, { "share of job", "share", share } } },
    { facts = skipped(runs, { { "Time left, told at half way", a.timeLeft.runs > 0 and ("off by %s (median), %s (p90), over %d runs"):format(share(a.timeLeft.median), share(a.timeLeft.p90), a.timeLeft.runs)
      or "not known: no workflow ran six times warm" } }) },
  } }
end

-- ---- timeline ----------------------------------------------------------------------------------------------------------

-- What each client did with its time.
function M.timeline(runs)
  local a = runs:clients()
  table.sort(a.clients, function(x, y) return x.client < y.client end)
  return { title = "Clients", answer = a, parts = {
    { facts = skipped(runs, { { "From first job to last", time(a.to and a.to - a.from) }, { "Runs", number(#runs) } }) },
    { title = "Busy, and idle by reason", rows = a.clients, columns = { { "client", "client", plain, true }, { "runs", "runs", number }, { "used", "utilization", share },
      { "idle", "idle", time }, { "no work", "noWork", time }, { "blocked", "blocked", time },
      { "elsewhere", "elsewhere", time }, { "held", "held", time }, { "transfer", "transfer", time }, { "network", "network", time }, { "busy", "busy", time } } },
  } }
end

-- ---- compare --------------------------------------------------------------------------------------------------------------

-- Where the runs were, as shares by client.
local function shares_of(runs)
  local rows, shares, total = runs:slow("client").rows, {}, 0
  for _, row in ipairs(rows) do total = total + row.count end
  for _, row in ipairs(rows) do shares[row.client or ""] = total > 0 and row.count / total or 0 end
  return shares
end

-- The client whose share of the runs changed most, when that is enough to be taken for slowness.
local function moved(a, b)
  local most, name = 0.2, nil
  for client in pairs(a) do
    local by = math.abs((b[client] or 0) - (a[client] or 0))
    if by > most and b[client] then most, name = by, client end
  end
  return name
end

-- Whether `b` is slower than `a`. over: a share (0.05); sheet.slower counts rows that are slower by at least that, sheet.tested
-- those that could be tested; sheet.failing: so much larger the share of jobs that did not complete is.
function M.compare(a, b, over)
  local answer = a:compare(b)
  local bad_a, bad_b = #a - a:completed(), #b - b:completed()
  local shares_a, shares_b = shares_of(a), shares_of(b)
  local client = moved(shares_a, shares_b)
  local slower, tested = 0, 0
  for _, r in ipairs(answer.rows) do
    r.name = r.type or short_hash(r.structureHash)
    r.count = ("%d/%d"):format(r.countA, r.countB)
    r.interval = r.low and ("%s .. %s"):format(change(r.low), change(r.high)) or "-"
    tested = tested + (r.q and 1 or 0)
    if r.verdict == "slower" and (r.change >= (over or 0) or r.medianA == 0) then slower = slower + 1 end
  end
  local columns = { { "what", "name", plain, true }, { "", "temperature", plain, true }, { "n", "count", plain }, { "median", "medianA", time }, { "then", "medianB", time },
    { "change", "change", change }, { "95% interval", "interval", plain }, { "verdict", "verdict", plain, true }, { "p90", "p90Change", change }, { "seen from", "detectable", share }, { "q", "q", number } }
  local failing = (#b > 0 and bad_b / #b or 0) - (#a > 0 and bad_a / #a or 0)
  answer.failedA, answer.failedB = bad_a, bad_b
  local sheet = { title = "Comparison", answer = answer, slower = slower, tested = tested, failing = failing, parts = {
    { facts = skipped(b, skipped(a, { { "Runs", ("%d and %d"):format(#a, #b) }, { "Not completed", ("%d and %d"):format(bad_a, bad_b) },
      { "Rows tested", number(tested) }, { "Slower" .. (over and over > 0 and (" by %s or more"):format(share(over)) or ""), number(slower) } })) },
    { title = "Workflows and node classes", columns = columns, rows = answer.rows },
  } }
  if client then
    sheet.parts[#sheet.parts + 1] = { title = "Before you believe it", lines = { ("client %s ran %s of the jobs, and then %s: when clients differ in speed, that alone makes rows slower or faster"):format(
      client, share(shares_a[client]), share(shares_b[client])) } }
  end
  return sheet
end

M.time, M.share, M.change = time, share, change
return M
