-- What many runs answer: slow, cache and why, progress, clients, compare; as text, markdown, csv, json, trace; from the
-- command line; and what odd logs do to it.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json

after_each(K.clean)

local dir
before_each(function() dir = H.folder "profiles" end)

local EPOCH = 1.7e12

-- One logged run. nodes: list of {id, type, took or "cached" or "pending", inputs}; they run one after the other.
local n_jobs = 0
local function run(o)
  n_jobs = n_jobs + 1
  local at = EPOCH + o.at
  local x = { schema = 1, jobId = "j" .. n_jobs, jobStatus = o.status or "completed", label = o.label, client = o.client or "a", structureHash = o.hash or "aaaa",
    queuedAt = at - (o.queue or 0), startedAt = at, queueTime = o.queue or 0, uploadTime = o.upload or 0, serverQueueTime = o.server or 0, nodes = json.array {} }
  for _, n in ipairs(o.nodes) do
    local took = type(n[3]) == "number" and n[3]
    x.nodes[#x.nodes + 1] = { nodeId = n[1], type = n[2], status = took and "completed" or n[3], duration = took or (n[3] == "cached" and 0 or nil), startedAt = took and at or nil,
      completedAt = took and at + took or nil, executions = took and 1 or 0, inputs = n[4] or json.object and nil, progressEvents = n.events }
    at = at + (took or 0)
  end
  x.completedAt, x.executionTime = at, at - EPOCH - o.at
  x.totalDuration = x.queueTime + x.executionTime
  return json.encode(x)
end

local function log(name, lines)
  local path = dir .. "/" .. name
  H.write(path, table.concat(lines, "\n") .. "\n")
  return path
end

local function loaded(lines, options) return assert(moonpool.profiles.load(log("log.jsonl", lines), options)) end
local function command(...) return H.run(H.moonpool .. " " .. table.concat({ ... }, " ")) end

local function near(want, got) assert.is_true(got ~= nil and math.abs(want - got) < 1e-6, ("%s, not %s"):format(tostring(got), tostring(want))) end

describe("profiles.load", function()
  it("gives runs back as they were logged, in the order of their starts, by label when asked", function()
    local lines = { run { at = 30, label = "b", nodes = {} }, run { at = 10, label = "a", nodes = { { "1", "X", 5 } } }, run { at = 20, nodes = {} } }
    local runs = loaded(lines)
    assert.equal(3, #runs)
    assert.same({ EPOCH + 10, EPOCH + 20, EPOCH + 30 }, { runs[1].startedAt, runs[2].startedAt, runs[3].startedAt })
    assert.same(json.decode(lines[2]), runs[1])
    assert.is_nil(runs[0])
    assert.is_nil(runs[4])
    local one = loaded(lines, { label = "a" })
    assert.same({ 1, "a" }, { #one, one[1].label })
    assert.equal(0, #loaded(lines, { label = "nobody" }))
  end)

  it("skips and counts what is no profile, wherever it stands", function()
    local good = run { at = 1, nodes = {} }
    local runs = loaded { "", "no json", good:sub(1, -20), "[1, 2]", '{"schema": 1}', (good:gsub('"schema":1', '"schema":2')), good, "\0\1\2", ("x"):rep(1000000), good .. "\r", '{"a":' .. ("["):rep(100000) }
    assert.equal(2, #runs)
    local bad, newer = runs:skipped()
    assert.same({ 8, 1 }, { bad, newer })
  end)

  it("of several files, of an empty one, of none", function()
    local one, two = log("1", { run { at = 1, nodes = {} } }), log("2", { run { at = 0, nodes = {} } })
    assert.equal(2, #moonpool.profiles.load { one, two })
    H.write(dir .. "/empty", "")
    assert.equal(0, #moonpool.profiles.load(dir .. "/empty"))
    local runs, err = moonpool.profiles.load(dir .. "/nowhere")
    assert.is_nil(runs)
    assert.match("nowhere: No such file", err.message)
    assert.error_matches(function() moonpool.profiles.load(7) end, "a path or a list of paths expected")
    assert.error_matches(function() moonpool.profiles.load("x", { lable = "y" }) end, "unknown option 'lable'")
  end)

  it("reads what a pool has logged", function()
    local path = dir .. "/runs.jsonl"
    local pool = K.pool_of({ K.sim() }, { profile_log = path })
    for i = 1, 6 do pool:submit(K.picture(i)) end
    for _ in pool:results() do end
    pool:shutdown()
    local runs = assert(moonpool.profiles.load(path))
    assert.equal(6, #runs)
    local ran = {}
    for _, row in ipairs(runs:slow().rows) do ran[row.type] = row.count end
    assert.equal(6, ran.KSampler)
    assert.equal(1, ran.CheckpointLoaderSimple)
  end)
end)

describe("slow", function()
  local function sampler(took) return { { "1", "CheckpointLoaderSimple", "cached", { ckpt_name = "m.safetensors" } }, { "3", "KSampler", took }, { "9", "SaveImage", 1 } } end

  it("adds up by class, with quantiles between the values", function()
    local lines = {}
    for i = 1, 10 do lines[i] = run { at = i * 1000, nodes = sampler(i * 10) } end
    local a = loaded(lines):slow "class"
    local k = a.rows[1]
    assert.same({ "KSampler", 10, 550 }, { k.type, k.count, k.total })
    near(55, k.p50)
    near(91, k.p90)
    near(99.1, k.p99)
    near(100, k.max)
    near(550 / 560, k.share)
    assert.same({ 10, 560 }, { a.runs, a.total })
    assert.equal(10, a.rows[3].cached)
    assert.equal(0, a.rows[3].count)
  end)

  it("keeps the first run of a model on a client, and one after another model, apart", function()
    local function of(model, took) return { { "1", "L", "cached", { ckpt_name = model } }, { "3", "KSampler", took } } end
    local k = loaded { run { at = 1, nodes = of("a.safetensors", 900) }, run { at = 1000, nodes = of("a.safetensors", 10) }, run { at = 2000, client = "b", nodes = of("a.safetensors", 800) },
      run { at = 3000, nodes = of("b.safetensors", 700) }, run { at = 4000, nodes = of("a.safetensors", 600) }, run { at = 5000, nodes = of("a.safetensors", 20) } }:slow().rows[1]
    assert.same({ 4, 2 }, { k.cold.count, k.warm.count })
    near(750, k.cold.p50)
    near(15, k.warm.p50)
  end)

  it("by node, client and workflow", function()
    local lines = { run { at = 1, hash = "one", client = "a", nodes = sampler(10) }, run { at = 100, hash = "one", client = "b", nodes = sampler(20) },
      run { at = 200, hash = "two", client = "b", status = "failed", nodes = sampler(40) } }
    local runs = loaded(lines)
    assert.same({ "two", "3", 40 }, { runs:slow("node").rows[1].structureHash, runs:slow("node").rows[1].nodeId, runs:slow("node").rows[1].max })
    local b = runs:slow("client").rows[1]
    assert.same({ "b", 2, 1 }, { b.client, b.count, b.failed })
    near(62, b.total)
    assert.equal("two", runs:slow("workflow").rows[1].structureHash)
    assert.has_error(function() runs:slow "colour" end)
  end)

  it("of one run, of durations of nothing, of runs that never began", function()
    local a = loaded { run { at = 5, nodes = { { "1", "X", 0 } } } }:slow()
    assert.same({ 1, 0, 0, 0 }, { a.rows[1].count, a.rows[1].p50, a.rows[1].p99, a.rows[1].share })
    local never = json.decode(run { at = 5, nodes = {} })
    never.startedAt, never.executionTime = nil, 0
    assert.same({ 0, 0 }, { loaded({ json.encode(never) }):slow().runs, #loaded({ json.encode(never) }):slow().rows })
  end)
end)

describe("cache: why a node ran", function()
  local function of(seed, text, status)
    return { { "1", "Loader", status or 1, { name = "m" } }, { "2", "Text", status or 1, { text = text, clip = { "1", 1 } } },
      { "3", "Sampler", 10, { seed = seed, cond = { "2", 0 } } }, { "4", "Save", 2, { images = { "3", 0 } } } }
  end
  -- node -> reason of the last run
  local function reasons(lines)
    local runs, list = loaded(lines), {}
    for _, w in ipairs(runs:why(#runs)) do list[w.nodeId] = w end
    return list, runs
  end

  it("first: nothing like it ran before", function()
    local r = reasons { run { at = 1, nodes = of(1, "x") } }
    for _, id in ipairs { "1", "2", "3", "4" } do assert.equal("first", r[id].reason) end
  end)

  it("input and ancestor: old and new value", function()
    local r = reasons { run { at = 1, nodes = of(1, "x") }, run { at = 100, nodes = of(2, "x", "cached") } }
    assert.same({ "input", "seed", "1", "2" }, { r["3"].reason, r["3"].input, r["3"].old, r["3"].new })
    assert.same({ "ancestor", "3", "seed", "1", "2" }, { r["4"].reason, r["4"].ancestor, r["4"].input, r["4"].old, r["4"].new })
    assert.is_nil(r["1"])
  end)

  it("evicted: another workflow ran there in between", function()
    local r = reasons { run { at = 1, nodes = of(1, "x") }, run { at = 100, hash = "other", nodes = { { "1", "Y", 1 } } }, run { at = 200, nodes = of(1, "x") } }
    assert.same({ "evicted", "other" }, { r["1"].reason, r["1"].other })
    assert.equal("evicted", r["4"].reason)
  end)

  it("other_client: the same ran elsewhere", function()
    local r = reasons { run { at = 1, nodes = of(1, "x") }, run { at = 100, client = "b", nodes = of(1, "x") } }
    assert.same({ "other_client", "a" }, { r["3"].reason, r["3"].other })
  end)

  it("unfinished: the run before was stopped", function()
    local cut = of(1, "x")
    cut[3][3], cut[4][3] = "failed", "pending"
    local r = reasons { run { at = 1, status = "failed", nodes = cut }, run { at = 100, nodes = of(1, "x", "cached") } }
    assert.equal("unfinished", r["3"].reason)
  end)

  it("never_cached: it runs each time; what hangs on it runs because of it", function()
    local function again() return { { "1", "Changed", 1, { n = 1 } }, { "2", "Save", 1, { images = { "1", 0 } } }, { "3", "Other", "cached", { n = 2 } } } end
    local r = reasons { run { at = 1, nodes = again() }, run { at = 100, nodes = again() }, run { at = 200, nodes = again() } }
    assert.equal("never_cached", r["1"].reason)
    assert.same({ "ancestor", "1" }, { r["2"].reason, r["2"].ancestor })
    assert.is_nil(r["2"].input)
  end)

  it("unknown: all that could be compared is equal", function()
    local r = reasons { run { at = 1, nodes = of(1, "x") }, run { at = 100, nodes = of(1, "x", "cached") },
      run { at = 200, nodes = of(1, "x") } }
    assert.equal("unknown", r["1"].reason)
  end)

  it("the table: hit rates, distinct inputs, and what was wasted", function()
    local lines = {}
    for i = 1, 12 do
      local loader = { "1", "Loader", i < 3 and 50 or "cached", { name = "m" } }
      lines[i] = run { at = i * 100, client = i % 2 == 0 and "a" or "b", nodes = { loader, { "3", "Sampler", 10, { seed = i % 3, m = { "1", 0 } } } } }
    end
    local a = loaded(lines):cache()
    local by = {}
    for _, n in ipairs(a.nodes) do by[n.nodeId] = n end
    assert.same({ 12, 3, 9 }, { by["3"].ran, by["3"].distinct, by["3"].repeated })
    near(90, by["3"].wasted)
    assert.same({ 2, 10, 1 }, { by["1"].ran, by["1"].cached, by["1"].distinct })
    near(10 / 12, by["1"].hitRate)
    near(10 / 24, a.hitRate)
    local text = command("report cache", dir .. "/log.jsonl")
    assert.match("node 3 Sampler ran 12 times for 3 distinct inputs", (text:gsub("%s+", " ")))
  end)

  it("on a sim: another seed, then another workflow in between", function()
    local path = dir .. "/runs.jsonl"
    local pool = K.pool_of({ K.sim() }, { profile_log = path })
    local empty = { class_type = "EmptyImage", inputs = { width = 64, height = 64, batch_size = 1, color = 1 } }
    local other = moonpool.workflow.from { ["1"] = empty, ["2"] = { class_type = "PreviewImage", inputs = { images = { "1", 0 } } } }
    for _, w in ipairs { K.picture(1), K.picture(2), other, K.picture(2) } do K.completed(pool:submit(w)) end
    pool:shutdown()
    local runs = assert(moonpool.profiles.load(path))
    local function of_run(i, node)
      for _, w in ipairs(runs:why(i)) do
        if w.nodeId == node then return w end
      end
    end
    assert.same({ "input", "seed", "1", "2" }, { of_run(2, "3").reason, of_run(2, "3").input, of_run(2, "3").old, of_run(2, "3").new })
    assert.is_nil(of_run(2, "4"))
    assert.same({ "evicted", runs[3].structureHash }, { of_run(4, "4").reason, of_run(4, "4").other })
  end)
end)

describe("progress", function()
  it("has the pace of each class, and how well the time left was told", function()
    local lines = {}
    for i = 1, 7 do
      local events, t = {}, EPOCH + i * 10000
      for step, ms in ipairs { 0, 100, 100, 200, 100 } do
        t = t + ms
        events[step] = { timestamp = t, value = step, max = 5 }
      end
      lines[i] = run { at = i * 10000, nodes = { { "3", "KSampler", 500, events = events }, { "9", "Save", 500 } } }
    end
    local a = loaded(lines):progress()
    local r = a.rows[1]
    assert.equal("KSampler", r.type)
    near(10, r.first)
    near(10, r.last)
    near(10, r.median)
    near(5, r.slowest)
    near(0.5, r.share)
    assert.equal(2, a.timeLeft.runs)
    near(0, a.timeLeft.median)
  end)
end)

describe("clients", function()
  it("busy and idle add up, idle by what the next job was doing", function()
    local function x(ms) return { { "1", "X", ms } } end
    local lines = { run { at = 0, nodes = x(100) }, run { at = 300, queue = 150, upload = 30, server = 20, nodes = x(100) }, run { at = 0, client = "b", nodes = x(400) } }
    local a = loaded(lines):clients()
    local by = {}
    for _, c in ipairs(a.clients) do by[c.client] = c end
    local c = by.a
    local got = { c.busy, c.idle, c.noWork, c.held, c.transfer, c.network, c.utilization }
    for i, want in ipairs { 200, 200, 50, 100, 30, 20, 0.5 } do assert.is_true(math.abs(want - got[i]) < 0.01, i .. ": " .. got[i]) end
    assert.is_true(math.abs(by.b.utilization - 1) < 1e-6)
  end)
end)

describe("clients, with more than one attempt,", function()
  it("have each attempt where it ran, and idle while what waits goes elsewhere", function()
    local x = json.decode(run { at = 500, client = "b", queue = 500, nodes = { { "1", "X", 100 } } })
    x.attempts = json.array {
      { client = "a", assignedAt = EPOCH, sentAt = EPOCH, startedAt = EPOCH + 100, endedAt = EPOCH + 300, outcome = "execution" },
      { client = "b", assignedAt = EPOCH + 400, sentAt = EPOCH + 450, startedAt = EPOCH + 500, endedAt = EPOCH + 600, outcome = "completed" },
    }
    local by = {}
    for _, c in ipairs(loaded({ json.encode(x) }):clients().clients) do by[c.client] = c end
    local function is(want, got) assert.is_true(math.abs(want - got) < 0.01, want .. ", not " .. got) end
    assert.same({ 1, 1 }, { by.a.runs, by.b.runs })
    is(200, by.a.busy)
    is(100, by.a.network)
    assert.same({ 150, 0 }, { by.a.blocked, by.a.elsewhere })  -- from 300 to 450 the job waited for b: it had failed on a
    is(150, by.a.noWork)
    is(100, by.b.busy)
    is(150, by.b.held)
    is(50, by.b.network)
    is(600, by.b.busy + by.b.idle)
  end)

  it("are blocked while all that waits failed there, till it is tried there again", function()
    local lines = {}
    local function job(hash, queued, attempts)
      local x = json.decode(run { at = queued, client = attempts[#attempts][1], nodes = { { "1", "X", 50 } } })
      x.structureHash, x.queuedAt, x.attempts = hash, EPOCH + queued, json.array()
      for i, a in ipairs(attempts) do
        local from = EPOCH + a[2]
        x.attempts[i] = { client = a[1], assignedAt = from, sentAt = from, startedAt = from, endedAt = from + a[3], outcome = a[4] or "completed" }
      end
      lines[#lines + 1] = json.encode(x)
    end
    job("h", 0, { { "a", 0, 100, "node_error" }, { "b", 200, 50 } })         -- from 100 on it waits, and not for a
    job("g", 150, { { "b", 250, 150 } })                                     -- from 150 on somebody waits who could have gone to a
    job("h", 300, { { "a", 400, 50 } })                                      -- tried there again
    local by = {}
    for _, c in ipairs(loaded(lines):clients().clients) do by[c.client] = c end
    local a = by.a
    for i, want in ipairs { 150, 50, 100, 50, 100 } do
      assert.is_true(math.abs(want - ({ a.busy, a.blocked, a.elsewhere, a.noWork, a.held })[i]) < 0.01, i)
    end
    assert.same({ 0, 0 }, { by.b.blocked, by.b.elsewhere })
  end)
end)

describe("compare", function()
  local state
  local function random()                            -- a generator of our own: the same on every machine
    state = (state * 6364136223846793005 + 1442695040888963407)
    return ((state >> 11) & ((1 << 53) - 1)) / 2 ^ 53
  end
  local function sample(n, mean, spread)
    local t = {}
    for i = 1, n do t[i] = mean + spread * math.sqrt(-2 * math.log(1 - random())) * math.cos(2 * math.pi * random()) end
    return t
  end

  it("calls equal pairs different no more often than it may, and finds ten per cent", function()
    state = 42
    local alarms, found = 0, 0
    for i = 1, 1000 do
      if moonpool.profiles.compare(sample(30, 100, 10), sample(30, 100, 10), i).p < 0.05 then alarms = alarms + 1 end
      if moonpool.profiles.compare(sample(30, 100, 10), sample(30, 110, 10), i).p < 0.05 then found = found + 1 end
    end
    assert.is_true(alarms >= 34 and alarms <= 68, alarms .. " false alarms")          -- the binomial 99 % range of 5 %
    assert.is_true(found >= 950, found .. " found")
  end)

  it("its intervals hold the true change", function()
    state = 7
    local held = 0
    for i = 1, 300 do
      local c = moonpool.profiles.compare(sample(40, 100, 10), sample(40, 120, 12), i)
      if c.low <= 0.2 and c.high >= 0.2 then held = held + 1 end
    end
    assert.is_true(held >= 0.9 * 300, held .. " of 300")
  end)

  local function set(name, label, n, took)
    local lines = {}
    for i = 1, n do lines[i] = run { at = i * 1000, label = label, nodes = { { "3", "KSampler", took(i) }, { "9", "Save", 5 + i % 3 } } } end
    return log(name, lines), lines
  end

  it("gives a verdict per workflow and class", function()
    state = 3
    local a = assert(moonpool.profiles.load((set("a", nil, 30, function() return 100 + 5 * random() end))))
    local b = assert(moonpool.profiles.load((set("b", nil, 30, function() return 120 + 5 * random() end))))
    local function verdicts(x)
      local by = {}
      for _, r in ipairs(x.rows) do by[r.kind == "class" and r.type or "workflow"] = r.verdict end
      return by
    end
    assert.same({ KSampler = "slower", Save = "same", workflow = "slower" }, verdicts(a:compare(b)))
    assert.same({ KSampler = "faster", Save = "same", workflow = "faster" }, verdicts(b:compare(a)))
    local row = a:compare(b).rows[1]
    assert.is_true(row.low > 0.1 and row.high < 0.25 and row.low <= row.change and row.change <= row.high)
    assert.is_true(row.detectable > 0 and row.detectable < 0.1)
  end)

  it("says so when there are too few, and of zero durations", function()
    local a = assert(moonpool.profiles.load((set("a", nil, 4, function() return 100 end))))
    for _, r in ipairs(a:compare(a).rows) do assert.equal("too few", r.verdict) end
    local zero = assert(moonpool.profiles.load((set("z", nil, 9, function() return 0 end))))
    for _, r in ipairs(zero:compare(zero).rows) do assert.equal("same", r.verdict) end
  end)

  it("does not pass when more jobs failed, or when nothing could be tested; says when the clients' shares changed", function()
    local a = set("a", nil, 20, function() return 100 end)
    local lines, mixed = {}, {}
    for i = 1, 20 do
      local status = i < 15 and "failed" or "completed"
      lines[i] = run { at = i * 1000, status = status, nodes = { { "3", "KSampler", i < 15 and "failed" or 100 }, { "9", "Save", 5 } } }
      mixed[i] = run { at = i * 1000, client = i % 4 == 0 and "a" or "slow", nodes = { { "3", "KSampler", i % 4 == 0 and 100 or 300 } } }
    end
    local text, code = command("compare", a, log("b", lines), "--fail-over 5%")
    assert.equal(1, code, text)
    assert.match("Not completed +0 and 14", text)
    local few = set("few", nil, 3, function() return 100 end)
    text, code = command("compare", few, few, "--fail-over 5%")
    assert.equal(2, code)
    assert.match("nothing could be tested", text)
    text = command("compare", a, log("mixed", mixed))
    assert.match("client a ran 100.0%% of the jobs, and then 25.0%%", (text:gsub("%s+", " ")))
    assert.equal(2, (select(2, command("compare", a))))
  end)

  it("finds what took no time before and does now", function()
    local a, b = set("a", nil, 9, function() return 0 end), set("b", nil, 9, function(i) return 5000 + i end)
    local before, after = assert(moonpool.profiles.load(a)), assert(moonpool.profiles.load(b))
    for _, r in ipairs(before:compare(after).rows) do
      if r.type == "KSampler" then assert.equal("slower", r.verdict) end
    end
    assert.equal(1, (select(2, command("compare", a, b, "--fail-over 5%"))))
  end)

  it("refuses what is no time", function()
    for _, bad in ipairs { 0 / 0, 1 / 0, -1, "x" } do assert.has_error(function() moonpool.profiles.compare({ 1, 2, 3, 4, bad }, { 1, 2, 3, 4, 5 }) end) end
  end)

  it("decides a build: exit code 0, 1 or 2", function()
    state = 5
    local a = set("a", "base", 30, function() return 100 + 5 * random() end)
    local b = set("b", "new", 30, function() return 120 + 5 * random() end)
    local text, code = command("compare", a, b, "--fail-over 5%")
    assert.match("slower", text)
    assert.equal(1, code)
    assert.equal(0, (select(2, command("compare", a, b, "--fail-over 50%"))))
    assert.equal(0, (select(2, command("compare", a, b))))
    assert.equal(0, (select(2, command("compare", a, a, "--fail-over 5%"))))
    H.write(dir .. "/both", H.read(a) .. H.read(b))
    assert.equal(1, (select(2, command("compare", dir .. "/both", "--label-a base --label-b new --fail-over 5%"))))
    for _, wrong in ipairs { a .. " " .. dir .. "/nowhere", a .. " " .. b .. " --label-b none", a .. " " .. b .. " --fail-over much", "", a .. " " .. b .. " --format nothing" } do
      text, code = command("compare", wrong)
      assert.equal(2, code, wrong .. "\n" .. text)
    end
  end)
end)

describe("moonpool report", function()
  local evil = "\27[31m<script>alert('x')</script>|a,\"b\"\r\n=1+1`é"
  local path
  local function evil_log()
    local lines = {}
    for i = 1, 8 do lines[i] = run { at = i * 100, client = evil, nodes = { { "1", evil, 10 + i, { text = evil } }, { "2", "=cmd()", 3 }, { "3", ("Long"):rep(60), 2 } } } end
    path = log("evil.jsonl", lines)
    return path
  end

  it("fits 80 columns, and is plain where nobody looks", function()
    for _, q in ipairs { "slow", "slow --by node", "slow --by client", "slow --by workflow", "cache", "progress", "timeline" } do
      local text, code = command("COLUMNS= report " == "" and "" or "report", q, evil_log())
      assert.equal(0, code, text)
      for line in text:gmatch "[^\n]+" do assert.is_true((utf8.len(line) or 999) <= 80, q .. ": " .. line) end
      assert.is_nil(text:find "[%c]" and text:gsub("\n", ""):find "%c")
    end
  end)

  it("markdown and csv carry names harmlessly", function()
    local text = command("report slow --format markdown", evil_log())
    assert.is_nil(text:find("<script", 1, true))
    assert.is_nil(text:gsub("\n", ""):find "%c")
    for line in text:gmatch "[^\n]+" do
      if line:find "^|" then assert.equal(9, select(2, line:gsub("[^\\]|", "%0")) + (line:find "^|" and 1 or 0)) end
    end
    local csv = command("report slow --format csv", path)
    local lines = {}
    for l in csv:gmatch "(.-)\r\n" do lines[#lines + 1] = l end
    assert.equal("type,count,total,share,p50,p90,p99,max", lines[1])
    assert.equal(4, #lines)
    assert.match("'=cmd%(%)", csv)
    assert.match('""b""', csv)
  end)

  it("json is the answer itself", function()
    local text = command("report slow --format json", evil_log())
    assert.same(assert(moonpool.profiles.load(path)):slow(), json.decode(text))
  end)

  it("job shows one run, by id, prompt or place, and json of it is the line", function()
    evil_log()
    local text = command("report job", path, "--job 2 --format json")
    assert.same(assert(moonpool.profiles.load(path))[2], json.decode(text))
    local words, code = command("report job", path, "--job nobody")
    assert.equal(2, code)
    assert.match("no job 'nobody' in 8 runs", words)
  end)

  it("trace has a lane per client and node, arrows from queue to run, and counters", function()
    local log_path = dir .. "/runs.jsonl"
    local pool = K.pool_of({ K.sim(), K.sim() }, { profile_log = log_path })
    for i = 1, 10 do pool:submit(K.picture(i)) end
    for _ in pool:results() do end
    pool:shutdown()
    local text, code = command("report timeline --format trace", log_path)
    assert.equal(0, code)
    local d = assert(json.decode(text))
    local count, open, processes, last = {}, {}, {}, {}
    for _, e in ipairs(d.traceEvents) do
      count[e.ph] = (count[e.ph] or 0) + 1
      assert.is_true(math.type(e.ts) == "integer" and e.ts >= 0 and e.pid ~= nil and e.tid ~= nil)
      if e.ph == "X" then
        assert.is_true(e.dur >= 0)
        local lane = e.pid .. "/" .. e.tid
        if e.cat == "node" or e.cat == "job" then
          assert.is_true((last[lane] or 0) <= e.ts + 1, "two at once in lane " .. lane)
          last[lane] = e.ts + e.dur
        end
      elseif e.ph == "s" then open[e.id] = e.ts
      elseif e.ph == "f" then
        assert.is_true(open[e.id] <= e.ts)
        open[e.id] = nil
      elseif e.ph == "M" and e.name == "process_name" then processes[#processes + 1] = e.args.name
      end
    end
    assert.equal(3, #processes)
    assert.same({ 10, 10 }, { count.s, count.f })
    assert.is_nil(next(open))
    assert.is_true(count.C > 20)
  end)

  it("takes a formatter of the user's own; one that fails is told, and the text is printed", function()
    evil_log()
    H.write(dir .. "/own.lua", "return function(sheet, runs) return sheet.title .. ' of ' .. #runs .. '\\n' end")
    assert.equal("Where the time goes of 8\n", (command("report slow", path, "--format", dir .. "/own.lua")))
    local lines = {}
    for i = 1, 4 do
      local x = json.decode(run { at = i, nodes = { { "1", "X", i * 1000 } } })
      x.metadata = i < 4 and { user = "ada" } or nil
      lines[i] = json.encode(x)
    end
    assert.equal("Where the time goes, by user\n  ada                      3 jobs         6.0 s\n  nobody                   1 jobs         4.0 s\n",
      (command("report slow", log("users", lines), "--format scripts/report_totals.lua")))
    H.write(dir .. "/bad.lua", "return function() error 'no' end")
    local text, code = command("report slow", path, "--format", dir .. "/bad.lua")
    assert.match("bad.lua: .*no", text)
    assert.match("By node class", text)
    assert.equal(2, code)
    assert.equal(2, (select(2, command("compare", path, path, "--format", dir .. "/bad.lua"))))
  end)

  it("shows names of a job harmlessly, and says when it cannot write", function()
    local text, code = command("report job", evil_log(), "--job 1")
    assert.equal(2, code)                                   -- the lines of these specs have no summary
    assert.match("not whole", text)
    local x = json.decode(run { at = 1, client = evil, nodes = { { "1", evil, 5 } } })
    x.summary = { executedNodes = 1, cachedNodes = 0, failedNodes = 0, pendingNodes = 0, totalNodes = 1, slowestNodes = json.array { { nodeId = "1", type = evil, title = "\155x", duration = 5 } } }
    x.exact, x.attempts, x.promptId = true, json.array { { client = evil } }, evil
    text, code = command("report job", log("one", { json.encode(x) }))
    assert.equal(0, code, text)
    assert.is_nil(text:gsub("\n", ""):find "[%c\155]")
    if io.open "/dev/full" then assert.equal(2, (select(2, command("report slow", path, "> /dev/full")))) end
  end)

  it("finds a job by its id before its place, and says whether it failed and why", function()
    local lines = {}
    for i = 1, 3 do
      local x = json.decode(run { at = i, status = i == 3 and "failed" or nil, nodes = { { "1", "X", 5 } } })
      x.jobId, x.jobError, x.exact, x.attempts = tostring(4 - i), i == 3 and "out of luck\nmore" or nil, true, json.array {}
      x.summary = { executedNodes = 1, cachedNodes = 0, failedNodes = 0, pendingNodes = 0, totalNodes = 1, slowestNodes = json.array {} }
      lines[i] = json.encode(x)
    end
    path = log("ids", lines)
    for id, place in pairs { ["3"] = 1, ["2"] = 2, ["1"] = 3 } do
      assert.equal(json.decode(lines[place]).queuedAt, json.decode((command("report job", path, "--format json --job", id))).queuedAt)
    end
    local text = command("report job", path, "--job 1")
    assert.match("Job: +1, failed", text)
    assert.match("Error: +out of luck %.%.%.", text)
  end)

  it("leaves out lines whose members are not what they should be", function()
    local good = run { at = 1, nodes = { { "1", "X", 5 } } }
    local lines = { good }
    for _, odd in ipairs { '"nodes":[1,2]', '"nodes":[{"nodeId":7}]', '"startedAt":null', '"startedAt":"x"', '"client":[]', '"executionTime":Infinity', '"queuedAt":1e999', '"executionTime":null' } do
      local name = odd:match '^"(%a+)"'
      local x = json.decode(good)
      x[name] = nil
      lines[#lines + 1] = json.encode(x):gsub("}$", "," .. odd .. "}")
    end
    path = log("odd", lines)
    local runs = assert(moonpool.profiles.load(path))
    assert.same({ 1, 8 }, { #runs, (runs:skipped()) })
    for _, q in ipairs { "timeline --format trace", "slow --format html", "cache", "progress" } do assert.equal(0, (select(2, command("report", q, path)))) end
    assert.equal(0, (select(2, command("plan --batch 5 --log", path))))
  end)

  it("says what is wrong with a log or an argument, with exit code 2", function()
    H.write(dir .. "/empty", "")
    H.write(dir .. "/foreign", "a,b,c\n1,2,3\n")
    local cases = {
      ["slow " .. dir .. "/nowhere"] = "No such file", ["slow " .. dir .. "/empty"] = "no runs", ["slow " .. dir .. "/foreign"] = "no runs %(2 lines are no profile%)",
      ["fast " .. dir] = "must be one of 'slow'", slow = "log", ["slow " .. evil_log() .. " --label x"] = "no runs with the label 'x'", ["slow " .. path .. " --format trace"] = "timeline",
      ["slow " .. path .. " --by colour"] = "by", ["slow " .. path .. " --out /nowhere/x"] = "/nowhere/x",
    }
    for arguments, words in K.sorted(cases) do
      local text, code = command("report", arguments)
      assert.equal(2, code, arguments .. "\n" .. text)
      assert.match(words, text)
    end
  end)

  it("bears clocks that jump", function()
    local back = json.decode(run { at = 1000, nodes = { { "1", "X", 5 } } })
    back.completedAt, back.executionTime, back.nodes[1].duration = back.startedAt - 500, -500, -3
    path = log("odd.jsonl", { json.encode(back), run { at = -1e6, nodes = { { "1", "X", 5 } } }, run { at = 1e12, nodes = { { "1", "X", 5 } } } })
    for _, q in ipairs { "slow", "cache", "progress", "timeline", "timeline --format trace" } do assert.equal(0, (select(2, command("report", q, path)))) end
    assert.equal(0, (select(2, command("compare", path, path))))
  end)
end)

describe("the page", function()
  local chromium
  for _, name in ipairs { "chromium", "chromium-browser", "google-chrome" } do
    if os.execute("command -v " .. name .. " >/dev/null 2>&1") then chromium = chromium or name end
  end
  local evil = "</script><img src=x onerror=document.title='hit'>\"'&\27"

  local function page(lines, extra)
    local path = log("page.jsonl", lines)
    local text, code = command("report slow --format html", path, extra or "")
    assert.equal(0, code, text)
    return text
  end

  it("has no markup but ours, and asks nobody for anything", function()
    local text = page { run { at = 1, client = evil, nodes = { { evil, evil, 5, { text = evil } } } } }
    assert.is_nil(text:find("<img", 1, true))
    assert.equal(2, select(2, text:gsub("</script>", "")))
    assert.is_nil(text:find "https?://[^w]" and text:gsub("http://www.w3.org/2000/svg", ""):find "https?://")
    assert.is_nil(text:find("\27", 1, true))
  end)

  -- Opens a page in a browser, with a script that works on it as a user would; the document as it is then.
  local function opened(text, script)
    H.write(dir .. "/page.html", (text:gsub("</head>", function() return '<script>window.faults = []; window.onerror = m => { window.faults.push(m); };</script></head>' end)
      :gsub("</body>", function() return "<script>" .. script .. "</script></body>" end)))
    local flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync --user-data-dir=" .. dir .. "/profile"
    local p = assert(io.popen(("%s %s --dump-dom file://$PWD/%s/page.html 2>/dev/null"):format(chromium, flags, dir)))
    local dom = p:read "a"
    p:close()
    return dom
  end

  local function said(dom) return assert(dom:match "<title>(.-)</title>", dom:sub(1, 200)) end

  it("works in a browser: pick a job by click and by key, zoom, 10,000 jobs, names as text", function()
    if not chromium then return pending "no chromium here" end
    local lines = {}
    for i = 1, 10000 do lines[i] = run { at = i * 50, client = i % 4 == 0 and evil or "c" .. i % 4, nodes = { { "1", "Loader", "cached" }, { "3", evil, 120 }, { "9", "Save", 20 } } } end
    local dom = opened(page(lines), [[
      const key = k => svg.dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true }));
      const before = svg.querySelectorAll("rect").length, began = performance.now();
      for (let i = 0; i < 9; i++) key("+");
      const run = svg.querySelector("rect.run");
      run.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      const rows = document.querySelectorAll("#nodes tr").length, words = document.querySelector("#picked h3").textContent;
      key("n"); key("n"); key("ArrowRight"); key("0");
      document.querySelector("[data-key='p']").click();
      const other = document.querySelector("#picked h3").textContent;
      document.title = [window.faults.length, before < 6000, svg.querySelectorAll("rect").length > 0, rows, words !== other, /^Job j\d+: completed/.test(words), document.querySelectorAll("img").length,
        performance.now() - began < 5000].join(" ");
    ]])
    assert.equal("0 true true 3 true true 0 true", said(dom))
  end)

  it("opens with one run, with runs that never began, and beside a comparison", function()
    if not chromium then return pending "no chromium here" end
    local never = json.decode(run { at = 5, nodes = {} })
    never.startedAt, never.client = nil, nil
    local text = page { json.encode(never), run { at = 7, nodes = { { "1", "X", 0 } } } }
    local dom = opened(text, 'for (const b of document.querySelectorAll("[data-key]")) b.click(); document.title = window.faults.length + " " + svg.querySelectorAll("rect").length;')
    assert.match("^0 [1-9]", said(dom))
    local compared = command("compare", dir .. "/page.jsonl", dir .. "/page.jsonl --format html")
    assert.match('<section id="asked"><h2>Comparison</h2>', compared)
    assert.match("^0 ", said(opened(compared, 'document.title = window.faults.length + " ok"')))
  end)
end)
