-- What an observer is told: events and their payloads, counts and queues, monitoring, progress and time left, previews.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

local scripted = K.scripted(it, pending)

after_each(K.clean)

-- A sim whose sampler takes `step_ms` for each step, at speed 1.
local function stepping(step_ms, options)
  local o = { speed = 1, costs = K.costs { ms = 0, step_ms = step_ms } }
  for k, v in pairs(options or {}) do o[k] = v end
  return K.sim(o)
end

-- ---- events -----------------------------------------------------------------------------------------------------

describe("the event", function()
  local function first(pool, name, job)
    local seen = K.events(pool, name)
    return function()
      return K.till(name .. " is told", function()
        for _, e in ipairs(seen) do
          if not job or e.job_id == job.id then return e end
        end
      end), seen
    end
  end

  it("pool:ready comes when init has found a client", function()
    local pool = K.pool()
    local ready = K.events(pool, "pool:ready", "pool:error")
    pool:add_client(K.sim().url)
    assert(pool:init())
    K.till("it is told", function() return #ready > 0 end)
    assert.same({ 1, "pool:ready" }, { #ready, ready[1].name })
  end)

  it("pool:ready says how many are online, and what is wrong with the others; it comes once", function()
    local pool = K.pool()
    local ready = K.events(pool, "pool:ready")
    local urls = { K.sim().url, K.sim().url, K.nowhere() }
    for _, url in ipairs(urls) do pool:add_client(url) end
    for _ = 1, 2 do assert(pool:init()) end
    assert.same({ 1, 2, 1 }, { #ready, ready[1].online, #ready[1].problems })
    assert.equal(urls[3] .. ": ", ready[1].problems[1]:sub(1, #urls[3] + 2))
    assert.matches("refused", ready[1].problems[1])
  end)

  it("pool:error says why init found none", function()
    local pool = K.pool()
    local told = K.events(pool, "pool:ready", "pool:error")
    local url = K.nowhere()
    pool:add_client(url)
    local ok, err = pool:init()
    assert.is_nil(ok)
    K.till("it is told", function() return #told > 0 end)
    assert.equal("pool:error", told[1].name)
    assert.is_truthy(err.message:find(url, 1, true))
    assert.is_truthy(tostring(told[1].error):find(url, 1, true))
  end)

  it("job:queued has the job, and no client yet", function()
    local pool = K.pool_of { K.sim() }
    local seen = K.events(pool, "job:queued")
    local job = pool:submit(K.picture())
    K.completed(job)
    assert.equal(1, #seen)
    assert.same({ "job:queued", job.id }, { seen[1].name, seen[1].job_id })
    assert.is_nil(seen[1].client)
  end)

  it("job:accepted has client and prompt id", function()
    for _, version in ipairs { "0.18.1", "2024-10" } do
      local pool, c = K.pool_of { K.sim { version = version } }
      local seen = K.events(pool, "job:accepted")
      local r = K.completed(pool:submit(K.picture()))
      assert.equal(1, #seen)
      assert.same({ r.job_id, c.name, c.url, r.prompt_id }, { seen[1].job_id, seen[1].client, seen[1].client_url, seen[1].prompt_id })
    end
  end)

  it("job:started has the client, and comes once for each attempt", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 1 }
    local pool, c = K.pool_of { s }
    local seen = K.events(pool, "job:started")
    local r = K.completed(pool:submit(K.picture()))
    assert.equal(2, r.attempts)
    assert.equal(2, #seen)
    for _, e in ipairs(seen) do assert.same({ r.job_id, c.name, c.url }, { e.job_id, e.client, e.client_url }) end
  end)

  it("job:progress has node, value, max and overall, and never goes back", function()
    local pool, c = K.pool_of { stepping(30) }
    local seen = K.events(pool, "job:progress")
    local r = K.completed(pool:submit(K.picture():input("3", "steps", 12)))
    assert.is_true(#seen >= 2)
    local value, overall = 0, 0
    for _, e in ipairs(seen) do
      assert.same({ r.job_id, c.name, c.url, "3", 12 }, { e.job_id, e.client, e.client_url, e.node, e.max })
      assert.is_true(e.value >= value and e.value <= 12)
      assert.is_true(e.overall >= overall and e.overall <= 1)
      value, overall = e.value, e.overall
    end
    assert.equal(12, value)
  end)

  it("job:output has the node and what it said", function()
    local pool, c = K.pool_of { K.sim() }
    local seen = K.events(pool, "job:output")
    local r = K.completed(pool:submit(K.two_outputs()))
    assert.equal(2, #seen)
    for _, e in ipairs(seen) do
      assert.same({ r.job_id, c.name }, { e.job_id, e.client })
      assert.same(r.outputs[e.node], e.output)
    end
    assert.not_equal(seen[1].node, seen[2].node)
  end)

  it("job:completed has job and client", function()
    local pool, c = K.pool_of { K.sim() }
    local get = first(pool, "job:completed")
    local r = K.completed(pool:submit(K.picture()))
    local e, all = get()
    assert.equal(1, #all)
    assert.same({ r.job_id, c.name, c.url }, { e.job_id, e.client, e.client_url })
    assert.is_nil(e.error)
  end)

  it("job:failed has the error, and that there will be no retry", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 9 }
    local pool, c = K.pool_of { s }
    local get = first(pool, "job:failed")
    local r = K.ended(pool:submit(K.picture(), { max_attempts = 2 }))
    local e, all = get()
    assert.equal(1, #all)
    assert.same({ r.job_id, c.name, false }, { e.job_id, e.client, e.will_retry })
    assert.equal(r.error.message, e.error)
  end)

  it("job:retrying has the error, the delay, and that there will be a retry", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 1 }
    local pool, c = K.pool_of({ s }, { retry_delay_ms = 50 })
    local get = first(pool, "job:retrying")
    local r = K.completed(pool:submit(K.picture()))
    local e, all = get()
    assert.equal(1, #all)
    assert.same({ r.job_id, c.name, true }, { e.job_id, e.client, e.will_retry })
    assert.is_true(e.delay_ms >= 34.9 and e.delay_ms <= 65.1)
    assert.matches("it broke", e.error)
  end)

  it("job:canceled has the job", function()
    local pool = K.pool_of { K.wedged() }
    local get = first(pool, "job:canceled")
    local job = pool:submit(K.picture())
    job:cancel()
    local e, all = get()
    assert.equal(1, #all)
    assert.same({ "job:canceled", job.id }, { e.name, e.job_id })
  end)

  it("client:state has client, state, and the problem when there is one", function()
    local pool, s = K.pool(), K.sim()
    local seen = K.events(pool, "client:state")
    local c = pool:add_client(s.url, { name = "one" })
    assert(pool:init())
    s:restart(300)
    K.till("it is away", function() return not c.online end)
    K.till("it is back", function() return c.online end)
    local on, off = 0, 0
    for _, e in ipairs(seen) do
      assert.same({ "one", c.url }, { e.client, e.client_url })
      if e.state == "idle" then
        on = on + 1
        assert.is_nil(e.problem)
      elseif e.state == "offline" then
        off = off + 1
        assert.is_string(e.problem)
      end
    end
    assert.is_true(on >= 2 and off >= 1)
  end)

  it("client:state says removed, once and by name, whatever the client was doing", function()
    local pool, hangs, works = K.pool { connect_timeout_ms = 3600000, reconnect_base_ms = 3600000, reconnect_cap_ms = 3600000 }, K.sim(), K.wedged()
    hangs:stall(3600000)
    local urls = { idle = K.sim().url, offline = K.nowhere(), connecting = hangs.url, busy = works.url }
    local seen, clients = K.events(pool, "client:state"), {}
    for name, url in K.sorted(urls) do clients[name] = pool:add_client(url, { name = name }) end
    K.till("each is what it is called but one, which is idle", function()
      return clients.idle.online and clients.busy.online and clients.offline.state == "offline" and clients.connecting.state == "connecting"
    end)
    pool:submit(K.picture(), { excluded_clients = { "idle" } })
    K.till("one is busy", function() return works:record().waiting == 1 end)
    local before = #seen
    for name, c in K.sorted(clients) do
      assert.equal(name, c.state)
      c:remove()
    end
    local left = {}
    for i = before + 1, #seen do left[#left + 1] = { seen[i].client, seen[i].client_url, seen[i].state, seen[i].problem } end
    assert.same({ { "busy", urls.busy, "removed" }, { "connecting", urls.connecting, "removed" }, { "idle", urls.idle, "removed" }, { "offline", urls.offline, "removed" } }, left)
    K.till("nothing of ours is on the server", function() return works:record().waiting == 0 end)
    K.turns()
    assert.equal(before + 4, #seen)
    assert.same({}, pool:clients())
  end)

  it("client:state says removed after the last job of a client that is drained", function()
    local pool, c = K.pool_of { K.sim() }
    local seen = K.events(pool, "client:state", "job:completed")
    local job = pool:submit(K.picture())
    c:remove { drain = true }
    K.completed(job)
    K.till("it is gone", function() return #seen == 3 end)
    assert.same({ "busy", "job:completed", "removed" }, { seen[1].state, seen[2].name, seen[3].state })
  end)

  it("client:<message> has every message of the server, by its type", function()
    local pool, c = K.pool_of { K.sim() }
    local names = { "status", "execution_start", "execution_cached", "progress_state", "executing", "progress", "executed", "execution_success" }
    local seen = {}
    for _, name in ipairs(names) do
      seen[name] = K.events(pool, "client:" .. name)
    end
    local all = K.events(pool, "client:message")
    local r = K.completed(pool:submit(K.picture()))
    K.till("the last status has come", function() return #seen.status >= 3 end)
    local n = 0
    for _, name in ipairs(names) do
      assert.is_true(#seen[name] > 0, name)
      for _, e in ipairs(seen[name]) do
        assert.same({ c.name, c.url, name }, { e.client, e.client_url, e.event_type })
        assert.is_table(e.event_data)
        assert.is_true(e.event_data.prompt_id == nil or e.event_data.prompt_id == r.prompt_id)
      end
      n = n + #seen[name]
    end
    assert.is_true(#all >= n)
    assert.equal("9", seen.executed[1].event_data.node)
  end)

  scripted("client:<message> has messages that nobody knows", function()
    local s = K.server()
    local pool, c = K.pool_of { s }
    local seen = K.events(pool, "client:crystools.monitor")
    s:say { '{"type": "crystools.monitor", "data": {"gpu": [{"used": 5, "name": null}]}}' }
    K.till("it has come", function() return #seen == 1 end)
    assert.same({ c.name, "crystools.monitor", 5 }, { seen[1].client, seen[1].event_type, seen[1].event_data.gpu[1].used })
  end)

  it("of a name of one's own is what was emitted", function()
    local pool = K.pool()
    local got = {}
    pool:on("mine", function(value) got[#got + 1] = value end)
    pool:on("mine", function(value) got[#got + 1] = value end)
    local value = { 1 }
    pool:emit("mine", value)
    pool:emit("nobody listens", 5)
    assert.equal(2, #got)
    assert.equal(value, got[1])
    pool:off "mine"
    pool:emit("mine", 6)
    assert.equal(2, #got)
  end)
end)

describe("events", function()
  it("of a whole life come in order, once each", function()
    local pool = K.pool_of { K.sim() }
    local seen = K.events(pool, "job:queued", "job:accepted", "job:started", "job:output", "job:completed", "job:failed", "job:canceled", "job:retrying", "job:taken_back")
    K.completed(pool:submit(K.picture()))
    local names = {}
    for i, e in ipairs(seen) do names[i] = e.name end
    assert.same({ "job:queued", "job:accepted", "job:started", "job:output", "job:completed" }, names)
  end)

  it("of a job that fails and is retried come in order", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = K.pool_of { s }
    local seen = K.events(pool, "job:queued", "job:accepted", "job:started", "job:output", "job:completed", "job:failed", "job:canceled", "job:retrying")
    K.completed(pool:submit(K.picture()))
    local names = {}
    for i, e in ipairs(seen) do names[i] = e.name end
    assert.same({ "job:queued", "job:accepted", "job:started", "job:retrying", "job:accepted", "job:started", "job:output", "job:completed" }, names)
  end)

  it("reach any number of listeners of a job", function()
    local pool = K.pool_of { stepping(20) }
    local job = pool:submit(K.picture())
    local n = { 0, 0, 0 }
    for i = 1, 3 do job:on("progress", function(e) n[i] = n[i] + 1; assert(e.job_id == job.id) end) end
    K.completed(job)
    assert.is_true(n[1] > 0)
    assert.same({ n[1], n[1], n[1] }, n)
  end)

  it("reach listeners of a job that was found by its id", function()
    local pool = K.pool_of { K.sim() }
    local job = pool:submit(K.picture(), { job_id = "mine" })
    local told
    pool:job "mine":on("completed", function(e) told = e.job_id end)
    K.completed(job)
    assert.equal("mine", told)
  end)

  it("name a client that was removed by what it was", function()
    local pool, a, _, ca = K.pair(nil, stepping(20))
    local seen = K.events(pool, "job:retrying")
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    ca:remove()
    K.completed(job)
    assert.same({ 1, "a", a.url }, { #seen, seen[1].client, seen[1].client_url })
  end)
end)

describe("the reference's name", function()
  it("job:prompt_assigned is told with job, prompt and client", function()
    local pool, c = K.pool_of { K.sim() }
    local seen = K.events(pool, "job:prompt_assigned")
    local r = K.completed(pool:submit(K.picture()))
    assert.equal(1, #seen)
    assert.same({ r.job_id, r.prompt_id, c.url }, { seen[1].job_id, seen[1].prompt_id, seen[1].client_url })
  end)

  it("client is every message of every server", function()
    local pool, c = K.pool_of { K.sim() }
    local seen, all = K.events(pool, "client"), K.events(pool, "client:message")
    K.completed(pool:submit(K.picture()))
    K.turns()
    assert.is_true(#seen > 0)
    assert.equal(#all, #seen)
    assert.same({ c.name, all[1].event_type }, { seen[1].client, seen[1].event_type })
  end)

  it("warn is a line of the log, also when the log is silent", function()
    local pool = K.pool()
    local seen = K.events(pool, "warn")
    pool:add_client(K.nowhere(), { name = "nobody there" })
    assert.is_nil((pool:init()))
    K.till("it is told", function() return #seen > 0 end)
    assert.matches("nobody there", seen[1].message)
  end)

  for level, words in K.sorted { info = "client one is online", debug = "client one is offline" } do
    it(level .. " is a line of the log too, whatever log_level says", function()
      local pool, s = K.pool { log_level = "error" }, K.sim()
      local seen = K.events(pool, level)
      local c = pool:add_client(s.url, { name = "one" })
      assert(pool:init())
      c:remove()
      K.till("it is told", function() return #seen > 0 end)
      assert.equal(level, seen[1].name)
      assert.is_truthy(seen[1].message:find(words, 1, true))
    end)
  end

  it("queue is told when a job comes and when it goes, with the counts of then", function()
    local pool = K.pool_of { { K.wedged(), { slots = 1 } } }
    local seen, jobs = K.events(pool, "queue"), {}
    for i = 1, 3 do jobs[i] = pool:submit(K.picture(i)) end
    for _, i in ipairs { 2, 3, 1 } do jobs[i]:cancel() end
    K.till("all are told", function() return #seen == 6 end)
    local got = {}
    for i, e in ipairs(seen) do got[i] = { e.name, e.job_id, e.pending, e.assigned, e.running } end
    local ids = K.ids(jobs)
    assert.same({ { "queue", ids[1], 0, 1, 0 }, { "queue", ids[2], 1, 1, 0 }, { "queue", ids[3], 2, 1, 0 }, { "queue", ids[2], 1, 1, 0 }, { "queue", ids[3], 0, 1, 0 }, { "queue", ids[1], 0, 0, 0 } }, got)
  end)

  it("queue counts what runs apart", function()
    local pool = K.pool_of { { stepping(20), { slots = 1 } } }
    local job = pool:submit(K.endless())
    K.till("it runs", function() return job.status == "running" end)
    local seen = K.events(pool, "queue")
    pool:submit(K.picture())
    K.till("it is told", function() return #seen == 1 end)
    assert.same({ 1, 0, 1 }, { seen[1].pending, seen[1].assigned, seen[1].running })
    job:cancel()
  end)
end)

-- ---- counts -----------------------------------------------------------------------------------------------------

describe("pool:stats", function()
  local fields = { "pending", "assigned", "running", "delayed", "parked", "completed", "failed", "canceled", "clients", "online", "malformed", "unfinished" }

  it("has every count, all 0 for a pool without anything", function()
    local st = K.pool():stats()
    for _, name in ipairs(fields) do assert.equal(0, st[name], name) end
    assert.is_false(st.paused)
    assert.same({}, st.queues)
  end)

  it("counts jobs where they are", function()
    local s = stepping(10)
    local pool = K.pool_of { s }
    local first = pool:submit(K.endless())
    K.till("one runs", function() return first.status == "running" end)
    pool:submit(K.picture(2))
    K.till("one waits there", function() return pool:stats().assigned == 1 end)
    for i = 3, 5 do pool:submit(K.picture(i)) end
    pool:submit(K.picture(6), { delay_ms = 3600000 })
    pool:submit(K.picture(7)):cancel()
    local st = pool:stats()
    assert.same({ 4, 1, 1, 1, 0, 0, 0, 1, 6 }, { st.pending, st.assigned, st.running, st.delayed, st.parked, st.completed, st.failed, st.canceled, st.unfinished })
    assert.equal(st.unfinished, st.pending + st.assigned + st.running)
    first:cancel()
  end)

  it("counts jobs that a policy holds back as parked", function()
    local hold = true
    local pool = K.pool_of({ K.sim() }, { recheck_ms = 20, policy = { route = function(_, clients) return not hold and clients[1] end } })
    local job = pool:submit(K.picture())
    K.till("it is parked", function() return pool:stats().parked == 1 end)
    assert.same({ 1, 0, 1 }, { pool:stats().pending, pool:stats().delayed, pool:stats().unfinished })
    hold = false
    K.completed(job)
    assert.equal(0, pool:stats().parked)
  end)

  it("counts clients, and those online", function()
    local pool = K.pool()
    pool:add_client(K.sim().url)
    pool:add_client(K.nowhere())
    assert(pool:init())
    assert.same({ 2, 1 }, { pool:stats().clients, pool:stats().online })
    pool:clients()[1]:remove()
    assert.same({ 1, 0 }, { pool:stats().clients, pool:stats().online })
  end)

  scripted("counts what was malformed", function()
    local s = K.server()
    local pool = K.pool_of { s }
    s:say { "no JSON", "[1, 2]" }
    K.till("both are counted", function() return pool:stats().malformed == 2 end)
  end)

  it("has the queues, by what may run them", function()
    local pool, _, _, ca = K.pair()
    pool:remove_client(ca)
    pool:add_client(K.sim().url, { name = "c", affinity = { K.two_outputs() } })
    pool:pause()
    for i = 1, 2 do pool:submit(K.picture(i)) end
    pool:submit(K.other_model())
    for i = 1, 4 do pool:submit(K.two_outputs():input("3", "seed", i)) end
    pool:submit(K.picture(9), { excluded_clients = { "b" } })
    local pending, hashes = {}, {}
    for _, q in ipairs(pool:stats().queues) do
      pending[q.type] = (pending[q.type] or 0) + q.pending
      hashes[q.type] = q.workflow_hash
    end
    assert.same({ general = 3, affinity = 4, special = 1 }, pending)
    assert.equal(K.two_outputs().structure_hash, hashes.affinity)
    pool:resume()
    for r in pool:results() do assert.equal("completed", r.status) end
    assert.same({}, pool:stats().queues)
  end)

  it("has no queue of jobs that are at servers", function()
    local pool = K.pool_of({ K.wedged() }, { take_backs = 0 })
    for i = 1, 2 do pool:submit(K.picture(i)) end
    K.till("both are there", function() return pool:stats().assigned == 2 end)
    assert.same({}, pool:stats().queues)
  end)
end)

-- ---- monitoring -------------------------------------------------------------------------------------------------

describe("monitoring", function()
  it("tells counts and clients again and again", function()
    local pool, c = K.pool_of({ { K.wedged(), { name = "watched" } } }, { monitoring = true, monitoring_interval_ms = 50, take_backs = 0 })
    local seen = K.events(pool, "pool:status")
    for i = 1, 3 do pool:submit(K.picture(i)) end
    K.till("two are at the server", function() return pool:stats().assigned == 2 end)
    local n = #seen
    K.till("it was told twice more", function() return #seen >= n + 2 end)
    local e = seen[#seen]
    assert.equal("pool:status", e.name)
    assert.same({ 1, 2, 0, 3, 1, 1 }, { e.stats.pending, e.stats.assigned, e.stats.running, e.stats.unfinished, e.stats.clients, e.stats.online })
    assert.equal(1, e.stats.queues[1].pending)
    assert.equal(1, #e.clients)
    assert.same({ "watched", c.url, "busy", 2 }, { e.clients[1].name, e.clients[1].url, e.clients[1].state, e.clients[1].queued })
  end)

  it("tells of each client its slots, its problem and what it ran last", function()
    local pool = K.pool_of({ { K.sim(), { name = "works", slots = 3 } } }, { monitoring = true, monitoring_interval_ms = 20, reconnect_base_ms = 3600000, reconnect_cap_ms = 3600000 })
    local seen = K.events(pool, "pool:status")
    local away = pool:add_client(K.nowhere(), { name = "away" })
    K.till("it is away", function() return away.problem end)
    local function newest()
      local n = #seen
      return K.till("it was told again", function() return seen[n + 1] end).clients
    end
    local before = newest()
    assert.same({ 3, "", 2 }, { before[1].slots, before[1].last_hash, before[2].slots })
    assert.is_nil(before[1].problem)
    assert.equal("offline", before[2].state)
    assert.matches("refused", before[2].problem)
    K.completed(pool:submit(K.two_outputs()))
    local after = newest()
    assert.same({ "idle", K.two_outputs().structure_hash, "" }, { after[1].state, after[1].last_hash, after[2].last_hash })
  end)

  it("is off by default", function()
    local pool = K.pool_of({ K.sim() }, { monitoring_interval_ms = 1 })
    local seen = K.events(pool, "pool:status")
    for i = 1, 3 do K.completed(pool:submit(K.picture(i))) end
    K.turns()
    assert.equal(0, #seen)
  end)

  it("goes on while nothing happens, and ends with the pool", function()
    local pool = K.pool { monitoring = true, monitoring_interval_ms = 20 }
    local seen = K.events(pool, "pool:status")
    K.till("it was told three times", function() return #seen >= 3 end)
    pool:shutdown()
    local n = #seen
    moonpool.sleep(60)
    assert.equal(n, #seen)
  end)

  it("is printed through the log at info, and not above", function()
    local function lines(on, level)
      local file = H.folder "monitoring" .. "/watch.lua"
      H.write(file, ([[
        local moonpool = require "moonpool"
        local sim <close> = moonpool.sim {}
        local pool <close> = moonpool.pool { log_level = "%s", monitoring = %s, monitoring_interval_ms = 20 }
        pool:add_client(sim.url, { name = "watched" })
        assert(pool:init())
        local n = 0
        pool:on("pool:status", function() n = n + 1 end)
        local bound = os.time() + 20
        while %s and n < 3 and os.time() < bound do moonpool.step(10) end
        for _ = 1, 30 do moonpool.step(1) end
      ]]):format(level, on, on))
      local out, code = H.run("timeout 60 " .. H.moonpool .. " " .. file)
      assert.equal(0, code, out)
      return select(2, out:gsub("[^\n]+", ""))
    end
    assert.is_true(lines(true, "info") >= lines(false, "info") + 2)
    assert.equal(0, lines(true, "warn"))
    assert.equal(0, lines(true, "silent"))
  end)

  it("wants a time", function()
    assert.error_matches(function() moonpool.pool { monitoring = true, monitoring_interval_ms = 0 } end, "monitoring_interval_ms")
    assert.error_matches(function() moonpool.pool { monitoring = 5 } end, "monitoring")
  end)
end)

-- ---- progress and time left -------------------------------------------------------------------------------------

describe("job.progress", function()
  it("goes from 0 over what is done to 1, and never back", function()
    local pool = K.pool_of { stepping(20) }
    pool:pause()
    local job = pool:submit(K.picture():input("3", "steps", 10))
    assert.equal(0, job.progress)
    pool:resume()
    local last, between = 0, 0
    K.till("it has ended", function()
      local p = job.progress
      assert(p >= last and p <= 1)
      if p > 0 and p < 1 and p > last then between = between + 1 end
      last = p
      return job.ended
    end)
    assert.equal("completed", K.ended(job).status)
    assert.equal(1, job.progress)
    assert.is_true(between >= 2)
  end)

  it("never goes back when earlier runs tell the time either", function()
    local pool = K.pool_of { stepping(20) }
    for i = 1, 3 do K.completed(pool:submit(K.picture(i))) end
    local job = pool:submit(K.picture(9))
    local last, between = 0, 0
    K.till("it has ended", function()
      local p = job.progress
      assert(p >= last and p <= 1, ("from %g to %g"):format(last, p))
      if p > 0 and p < 1 and p > last then between = between + 1 end
      last = p
      return job.ended
    end)
    K.completed(job)
    assert.is_true(between >= 2)
  end)

  it("is a number without a profile too, and 1 at the end", function()
    local pool = K.pool_of({ stepping(20) }, { profiling = false })
    local job = pool:submit(K.picture())
    K.till("it has ended", function()
      assert(job.progress >= 0 and job.progress <= 1)
      return job.ended
    end)
    K.completed(job)
    assert.equal(1, job.progress)
  end)

  it("begins anew with a new attempt, and stays below 1 for what did not complete", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 2 }
    local pool = K.pool_of { s }
    local job = pool:submit(K.picture(), { max_attempts = 2 })
    local seen = {}
    pool:on("job:retrying", function() seen[#seen + 1] = job.progress end)
    assert.equal("failed", K.ended(job).status)
    assert.is_true(job.progress < 1)
    assert.is_true(seen[1] < 1)
  end)
end)

describe("job:time_left", function()
  it("is nil while nothing is known", function()
    local pool = K.pool_of { K.wedged() }
    local job = pool:submit(K.picture())
    assert.is_nil((job:time_left()))
    K.till("it is there", function() return job.status == "assigned" end)
    assert.is_nil((job:time_left()))
  end)

  it("is 0 or nil after the end", function()
    local pool = K.pool_of { K.sim() }
    local job = pool:submit(K.picture())
    K.completed(job)
    assert.is_true((job:time_left() or 0) == 0)
  end)

  it("has a lower and an upper bound around it", function()
    local pool = K.pool_of { stepping(10) }
    for i = 1, 2 do K.completed(pool:submit(K.picture(i))) end
    local job = pool:submit(K.endless())
    local told = 0
    job:on("progress", function() told = told + 1 end)
    K.till("it tells of its steps", function() return told >= 3 end)
    local function check(ms, low, high)
      assert.is_true(0 < ms and ms / 2 < low and low < ms and ms < high and high < 2 * ms, ("%s: from %s to %s"):format(ms, low, high))
    end
    check(job:time_left())
    local behind = pool:submit(K.picture(9))
    K.till("another one waits there", function() return behind.status == "assigned" end)
    check(behind:time_left())
    job:cancel()
    K.completed(behind)
  end)
end)

describe("client:state", function()
  it("is told when a client gets work, and when it has none left", function()
    local pool = K.pool_of { { K.sim(), { slots = 1 } } }
    local seen = K.events(pool, "client:state")
    for i = 1, 2 do K.completed(pool:submit(K.picture(i))) end
    K.till("it is idle again", function() return #seen >= 4 end)
    local states = {}
    for i, e in ipairs(seen) do states[i] = e.state end
    assert.same({ "busy", "idle", "busy", "idle" }, states)
    assert.is_nil(seen[1].problem)
  end)
end)

-- ---- previews ---------------------------------------------------------------------------------------------------

describe("a preview", function()
  for _, version in ipairs { "0.18.1", "2024-10" } do
    it("comes from a server of " .. version .. (version == "0.18.1" and ", with metadata" or ", without metadata"), function()
      local pool, c = K.pool_of { stepping(20, { previews = true, version = version }) }
      local seen = K.events(pool, "job:preview")
      local job = pool:submit(K.picture():input("3", "steps", 4))
      local mine = 0
      job:on("preview", function() mine = mine + 1 end)
      K.completed(job)
      assert.is_true(#seen >= 2)
      assert.equal(#seen, mine)
      for _, e in ipairs(seen) do
        assert.same({ "job:preview", job.id, c.name, c.url, "3", "jpeg", 64, 64 }, { e.name, e.job_id, e.client, e.client_url, e.node, e.format, e.width, e.height })
        assert.equal("\255\216\255", e.image:sub(1, 3))
      end
    end)
  end

  for _, kind in ipairs { 1, 4 } do
    for format, bytes in ipairs { "\255\216\255\224 a JPEG of some length", "\137PNG\r\n\26\n a PNG of some length" } do
      scripted(("of kind %d and format %d is told with its bytes as they are"):format(kind, format), function()
        local s = K.server { frames = { ["3"] = { { kind = kind, format = format, data = K.to_text(bytes) } } } }
        local pool = K.pool_of { s }
        local seen = K.events(pool, "job:preview")
        local r = K.completed(pool:submit(K.picture()))
        assert.equal(1, #seen)
        assert.same({ r.job_id, "3", format == 1 and "jpeg" or "png" }, { seen[1].job_id, seen[1].node, seen[1].format })
        assert.is_true(bytes == seen[1].image)
        assert.equal(1, #r.images)
      end)
    end
  end

  -- The heads of pictures: what a reader of their size needs, and no more.
  local heads = {
    { "png", 300, 70000, "\137PNG\r\n\26\n" .. string.pack(">I4", 13) .. "IHDR" .. string.pack(">I4I4", 300, 70000) .. "\8\2\0\0\0" },
    { "jpeg", 640, 257, "\255\216\255\224" .. string.pack(">I2", 16) .. ("j"):rep(14) .. "\255\192" .. string.pack(">I2BI2I2", 17, 8, 257, 640) .. ("j"):rep(10) },
    { "jpeg", 3, 2, "\255\216\255\196" .. string.pack(">I2", 5) .. "huf\255\255\194" .. string.pack(">I2BI2I2", 17, 8, 2, 3) .. ("j"):rep(10) },      -- progressive; a fill byte
    { "webp", 500, 400, "RIFF----WEBPVP8 " .. ("-"):rep(10) .. string.pack("<I2I2", 500, 400) },
    { "webp", 501, 9000, "RIFF----WEBPVP8L----\47" .. string.pack("<I4", 500 | 8999 << 14) .. ("-"):rep(5) },
    { "webp", 70000, 2, "RIFF----WEBPVP8X--------" .. string.pack("<I3I3", 69999, 1) },
    { "jpeg", 0, 0, "\255\216\255\224 cut off" },
    { "png", 0, 0, "\137PNG\r\n\26\n" },
  }

  for _, kind in ipairs { 1, 4 } do
    scripted(("of kind %d has the width and height of its picture, of every format; 0 when it does not say"):format(kind), function()
      local frames, want = {}, {}
      for i, head in ipairs(heads) do
        frames[i] = { kind = kind, format = head[1] == "png" and 2 or 1, data = K.to_text(head[4]) }
        want[i] = { head[1], head[2], head[3] }
      end
      local s = K.server { frames = { ["3"] = frames } }
      local pool = K.pool_of { s }
      local seen = K.events(pool, "job:preview")
      K.completed(pool:submit(K.picture()))
      local got = {}
      for i, e in ipairs(seen) do
        got[i] = { e.format, e.width, e.height }
        assert.is_true(heads[i][4] == e.image)
      end
      assert.same(want, got)
    end)
  end

  it("goes to its own job only, with another pool on the same server", function()
    local s = stepping(20, { previews = true })
    local one, two = K.pool_of { s }, K.pool_of { s }
    local of_one, of_two = K.events(one, "job:preview"), K.events(two, "job:preview")
    local job = one:submit(K.picture(1))
    K.completed(job)
    K.completed(two:submit(K.picture(2)))
    assert.is_true(#of_one > 0 and #of_two > 0)
    for _, e in ipairs(of_one) do assert.equal(job.id, e.job_id) end
    for _, e in ipairs(of_two) do assert.is_not_nil(e.job_id) end
  end)

  scripted("that a slow script has not seen yet gives way to newer ones: 32 wait at most", function()
    local frames = {}
    for i = 1, 300 do frames[i] = { kind = 4, format = 1, data = ("%03d"):format(i) } end
    local s = K.server { frames = { ["3"] = frames } }
    local pool = K.pool_of { s }
    local seen, steps = {}, 0
    pool:on("job:progress", function() steps = steps + 1 end)
    pool:on("job:preview", function(e)
      seen[#seen + 1] = tonumber(e.image)
      while #seen == 1 and not H.run("curl -s " .. s.url .. "/history"):find "outputs" do end        -- busy until the server has said all
    end)
    pool:on("job:completed", function() seen[#seen + 1] = "completed" end)
    K.completed(pool:submit(K.picture()))
    assert.is_true(steps > 0)
    assert.is_true(#seen < 300, #seen)
    local last = {}
    for i = 1, 32 do last[i] = 268 + i end
    last[33] = "completed"
    assert.same(last, table.move(seen, #seen - 32, #seen, 1, {}))
  end)

  it("does not come in the way of a listener of something else", function()
    local pool = K.pool_of { stepping(10, { previews = true }) }
    local all = K.events(pool, "job:progress", "job:completed")
    K.completed(pool:submit(K.picture()))
    assert.is_true(#all >= 2)
    for _, e in ipairs(all) do assert.is_nil(e.image) end
  end)
end)
