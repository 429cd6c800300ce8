-- The pool as a script sees it, over real sockets to simulated servers. Nothing here depends on how fast anything is:
-- what must last long has ten thousand steps or a server that never begins, and is canceled.
local H = require "helper"
local moonpool = require "moonpool"

local opened = {}

local function keep(object, close)
  opened[#opened + 1] = function() close(object) end
  return object
end

-- Every node at once, but the sampler.
local function costs(sampler)
  return { CheckpointLoaderSimple = 0.1, EmptyLatentImage = 0.1, CLIPTextEncode = 0.1, VAEDecode = 0.1, SaveImage = 0.1, PreviewImage = 0.1, KSampler = sampler }
end

local function sim(options)
  local o = { speed = 50, costs = costs { ms = 0, step_ms = 30 } }
  for k, v in pairs(options or {}) do o[k] = v end
  return keep(assert(moonpool.sim(o)), function(s) s:close() end)
end

local function new_pool(options)
  local o = { log_level = "silent", reconnect_base_ms = 40, retry_delay_ms = 1 }
  for k, v in pairs(options or {}) do o[k] = v end
  return keep(moonpool.pool(o), function(p) p:shutdown { timeout_ms = 0 } end)
end

-- A pool that is connected to the given servers.
local function pool_of(servers, options, client_options)
  local pool = new_pool(options)
  local clients = {}
  for i, s in ipairs(servers) do clients[i] = assert(pool:add_client(s.url, client_options)) end
  assert(pool:init())
  return pool, table.unpack(clients)
end

-- Turns the loop until pred() holds. The bound only keeps a broken pool from hanging the run.
local function till(what, pred)
  local bound = os.time() + 60
  while not pred() do
    if os.time() > bound then error("it never came to this: " .. what, 2) end
    moonpool.step(10)
  end
end

-- An address of this machine where nobody listens.
local function nowhere()
  local s = assert(moonpool.sim {})
  local url = s.url
  s:close()
  for _ = 1, 5 do moonpool.step(0) end
  return url
end

local function picture() return assert(moonpool.workflow.from(H.text_to_image)) end
local function endless() return picture():input("3", "steps", 10000) end
local function changed(pattern, by)
  local text, n = H.text_to_image:gsub(pattern, by)
  assert(n > 0)
  return assert(moonpool.workflow.from(text))
end

local second_output = '"filename_prefix": "lighthouse"}},\n "10": {"class_type": "PreviewImage", "inputs": {%s}}'
local function two_outputs() return changed('"filename_prefix": "lighthouse"}}', (second_output:format '"images": ["8", 0]')) end
local function half_wrong() return changed('"filename_prefix": "lighthouse"}}', (second_output:format "")) end

local function starts(pool)
  local order = {}
  pool:on("job:started", function(e) order[#order + 1] = e.job_id end)
  return order
end

after_each(function()
  for i = #opened, 1, -1 do pcall(opened[i]) end
  opened = {}
end)

describe("pool:init", function()
  it("says that a pool without clients has none", function()
    local ok, err = new_pool():init()
    assert.is_nil(ok)
    assert.equal("no_clients", err.kind)
    assert.matches("no clients", err.message)
  end)

  it("is true when every client answers", function()
    local pool, a, b = pool_of { sim(), sim() }
    assert.is_true(a.online and b.online)
    assert.equal(2, pool:stats().online)
  end)

  it("is true when some client answers, and the other one says why it does not", function()
    local pool = new_pool()
    pool:add_client(sim().url)
    local dead = pool:add_client(nowhere())
    assert.is_true(pool:init())
    assert.is_false(dead.online)
    assert.is_string(dead.problem)
    assert.equal(1, pool:stats().online)
  end)

  it("names every client when none answers", function()
    local pool = new_pool()
    local a = pool:add_client(nowhere())
    local b
    repeat b = pool:add_client(nowhere()) until b            -- the port may be the same one again
    local ok, err = pool:init()
    assert.is_nil(ok)
    assert.equal("no_clients", err.kind)
    assert.is_truthy(err.message:find(a.url, 1, true))
    assert.is_truthy(err.message:find(b.url, 1, true))
    assert.matches("^no_clients: ", tostring(err))
  end)

  it("need not be called: a submitted job waits for the connection", function()
    local pool = new_pool()
    pool:add_client(sim().url)
    assert.equal("completed", pool:submit(picture()):wait().status)
  end)

  it("finds a server that comes up later", function()
    local s = sim()
    s:restart(300)
    local pool = new_pool()
    local c = pool:add_client(s.url)
    assert.is_nil(pool:init())
    till("the client is online", function() return c.online end)
    assert.is_nil(c.problem)
  end)
end)

describe("clients", function()
  it("have what they were given", function()
    local pool = new_pool()
    local c = pool:add_client(sim().url .. "/", { name = "big", tags = { "24g", "fast" }, priority = 2, slots = 3 })
    assert.equal("big", c.name)
    assert.same({ "24g", "fast" }, c.tags)
    assert.equal(2, c.priority)
    assert.equal(3, c.slots)
    assert.equal(3, c.free_slots)
    assert.equal(c, pool:client "big")
    assert.equal(c, pool:client(c.url))
  end)

  it("tell version, devices and state", function()
    local pool, c = pool_of { sim { name = "Test GPU" } }
    assert.equal("0.18.1", c.version)
    assert.equal("idle", c.state)
    assert.matches("Test GPU", c.devices[1].name)
    assert.same({ c }, pool:idle_clients())
  end)

  it("are not added twice, nor with an address that is none", function()
    local pool, c = pool_of { sim() }
    local again, err = pool:add_client(c.url)
    assert.is_nil(again)
    assert.matches("has http://", err.message)
    again, err = pool:add_client "gpu1:8188"
    assert.is_nil(again)
    assert.equal("invalid", err.kind)
    assert.matches("gpu1:8188", err.message)
  end)

  it("can be removed, and what they held goes elsewhere", function()
    local a, b = sim(), sim()
    a:wedge()
    local pool, ca = pool_of { a }
    local job = pool:submit(picture())
    till("the job is at the first server", function() return a:record().waiting == 1 end)
    pool:add_client(b.url)
    assert.is_true(pool:remove_client(ca))
    assert.equal("completed", job:wait().status)
    assert.is_nil(pool:client(a.url))
    assert.is_false(pool:remove_client(a.url))
    assert.has_error(function() return ca.name end)
    till("nothing of ours is left there", function() return a:record().waiting == 0 end)
  end)
end)

describe("slots", function()
  it("fill every client once before any twice", function()
    local a, b = sim(), sim()
    a:wedge()
    b:wedge()
    local pool, ca, cb = pool_of { a, b }
    pool:submit(picture())
    pool:submit(picture())
    till("both are at servers", function() return pool:stats().assigned == 2 end)
    assert.same({ 1, 1 }, { ca.queued, cb.queued })
    pool:submit(picture())
    pool:submit(picture())
    till("all are at servers", function() return pool:stats().assigned == 4 end)
    assert.same({ 2, 2 }, { ca.queued, cb.queued })
    assert.equal("busy", ca.state)
  end)

  it("hold no more than they are", function()
    local s = sim()
    s:wedge()
    local pool, c = pool_of({ s }, nil, { slots = 2 })
    for _ = 1, 5 do pool:submit(picture()) end
    till("the server has two", function() return s:record().waiting == 2 end)
    for _ = 1, 20 do moonpool.step(1) end
    assert.equal(2, c.queued)
    assert.equal(0, c.free_slots)
    assert.equal(3, pool:stats().pending)
    assert.equal(2, s:record().waiting)
  end)

  it("are all used, and every job completes", function()
    local a, b = sim(), sim()
    local pool = pool_of { a, b }
    local jobs = {}
    for i = 1, 12 do jobs[i] = pool:submit(picture():input("3", "seed", i)) end
    for _, j in ipairs(jobs) do assert.equal("completed", j:wait().status) end
    assert.equal(12, a:record().prompts + b:record().prompts)
    assert.is_true(a:record().prompts > 0 and b:record().prompts > 0)
  end)
end)

describe("affinity", function()
  it("keeps a workflow on the clients that claim it", function()
    local a, b = sim(), sim()
    a:wedge()
    b:wedge()
    local pool = new_pool()
    local ca = pool:add_client(a.url, { affinity = { picture() } })
    local cb = pool:add_client(b.url)
    assert(pool:init())
    for _ = 1, 3 do pool:submit(picture()) end
    till("both slots of the one are taken", function() return ca.queued == 2 end)
    for _ = 1, 20 do moonpool.step(1) end
    assert.equal(0, cb.queued)
    assert.equal(1, pool:stats().pending)
    assert.same({ ca }, pool:clients_for(picture()))
    assert.is_true(pool:has_clients_for(picture()))
  end)

  it("may be given as a hash, and does not stop general jobs", function()
    local a = sim()
    local pool = new_pool()
    local ca = pool:add_client(a.url, { affinity = { picture().structure_hash } })
    assert(pool:init())
    assert.same({ picture().structure_hash }, ca.affinity)
    local general = pool:submit(two_outputs())
    assert.equal("completed", general:wait().status)
  end)

  it("leaves a job without clients when the one that claims it is away", function()
    local pool = new_pool { no_client_ms = 1 }
    pool:add_client(nowhere(), { affinity = { picture() } })
    pool:add_client(sim().url)
    assert(pool:init())
    local r = pool:submit(picture()):wait()
    assert.equal("failed", r.status)
    assert.equal("no_clients", r.error.kind)
    assert.matches("affinity", r.error.message)
  end)
end)

describe("order", function()
  it("is by arrival", function()
    local pool = new_pool()
    local order, jobs = starts(pool), {}
    for i = 1, 4 do jobs[i] = pool:submit(picture():input("3", "seed", i)) end
    pool:add_client(sim().url, { slots = 1 })
    for _ in pool:results() do end
    assert.same({ jobs[1].id, jobs[2].id, jobs[3].id, jobs[4].id }, order)
  end)

  it("is by priority first", function()
    local pool = new_pool()
    local order, jobs = starts(pool), {}
    for i, p in ipairs { 0, 5, -1, 5, 9 } do jobs[i] = pool:submit(picture():input("3", "seed", i), { priority = p }) end
    pool:add_client(sim().url, { slots = 1 })
    for _ in pool:results() do end
    assert.same({ jobs[5].id, jobs[2].id, jobs[4].id, jobs[1].id, jobs[3].id }, order)
    assert.equal(9, jobs[5].priority)
  end)

  it("is the policy's when it ranks", function()
    local pool = new_pool { policy = { rank = function(job) return job.metadata.rank end } }
    local order, jobs = starts(pool), {}
    for i, r in ipairs { 1, 3, 2 } do jobs[i] = pool:submit(picture():input("3", "seed", i), { metadata = { rank = r } }) end
    pool:add_client(sim().url, { slots = 1 })
    for _ in pool:results() do end
    assert.same({ jobs[2].id, jobs[3].id, jobs[1].id }, order)
  end)

  it("holds for two slots too", function()
    local pool = new_pool()
    local order, jobs = starts(pool), {}
    for i = 1, 5 do jobs[i] = pool:submit(picture():input("3", "seed", i)).id end
    pool:add_client(sim().url)
    for _ in pool:results() do end
    assert.same(jobs, order)
  end)
end)

describe("states", function()
  it("go from pending over assigned and running to completed", function()
    local s = sim()
    local pool = pool_of { s }
    s:stall(50)                                              -- the POST's reply waits, so the job is assigned and no more
    local job = pool:submit(picture())
    assert.equal("assigned", job.status)
    local seen
    job:on("started", function() seen = job.status end)
    assert.equal("completed", job:wait().status)
    assert.equal("running", seen)
    assert.equal("completed", job.status)
    assert.is_true(job.ended)
  end)

  it("are pending before anybody is connected, no_clients when nobody can be", function()
    local pool = new_pool()
    local job = pool:submit(picture())
    assert.is_true(job.status == "no_clients" or job.status == "pending")
    pool:add_client(nowhere())
    assert.equal("pending", job.status)
    assert.is_nil((pool:init()))
    assert.equal("no_clients", job.status)
    assert.is_false(job.ended)
    assert.is_nil(job:result())
  end)

  it("fail when nobody came within no_client_ms, and say where what is missing", function()
    local pool = new_pool { no_client_ms = 1 }
    local c = pool:add_client(nowhere())
    local r = pool:submit(picture()):wait()
    assert.equal("failed", r.status)
    assert.equal("no_clients", r.error.kind)
    assert.is_truthy(r.error.message:find(c.name, 1, true))
  end)

  it("fail at total_ms", function()
    local s = sim()
    s:wedge()
    local pool = pool_of { s }
    local r = pool:submit(picture(), { total_ms = 30 }):wait()
    assert.equal("failed", r.status)
    assert.equal("timeout", r.error.kind)
    till("nothing is left on the server", function() return s:record().waiting == 0 end)
  end)

  it("fail at node_silence_ms when nothing is heard, and the attempts are used up", function()
    local s = sim()
    s:wedge()
    local pool = pool_of { s }
    local r = pool:submit(picture(), { node_silence_ms = 30, max_attempts = 1 }):wait()
    assert.equal("failed", r.status)
    assert.equal("timeout", r.error.kind)
  end)

  it("fail at the pool's total_ms and node_silence_ms as at the job's own, and a first run at cold_silence_ms", function()
    local s = sim()
    s:wedge()
    for _, bounds in ipairs { { total_ms = 30 }, { node_silence_ms = 30, cold_silence_ms = 30 } } do
      bounds.max_attempts = 1
      local r = pool_of({ s }, bounds):submit(picture()):wait()
      assert.same({ "failed", "timeout" }, { r.status, r.error.kind })
      assert.matches(bounds.total_ms and "total_ms" or "node_silence_ms", r.error.message)
    end
    local job = pool_of({ s }, { node_silence_ms = 30, max_attempts = 1 }):submit(picture())
    assert.equal("timeout", select(2, job:wait(90)).kind)
    assert.equal("assigned", job.status)
  end)

  it("leave a server that hangs for one that works", function()
    local a, b = sim(), sim()
    a:wedge()
    local pool = new_pool()
    pool:add_client(a.url, { priority = 1 })
    pool:add_client(b.url)
    assert(pool:init())
    local r = pool:submit(picture(), { node_silence_ms = 200 }):wait()
    assert.equal("completed", r.status)
    assert.equal(b.url, pool:client(r.client).url)
  end)

  it("are counted", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = pool_of { s }
    pool:submit(picture(), { max_attempts = 1 }):wait()
    pool:submit(picture()):wait()
    pool:submit(endless()):cancel()
    local st = pool:stats()
    assert.same({ 1, 1, 1, 0 }, { st.completed, st.failed, st.canceled, st.unfinished })
  end)
end)

describe("a node's failure", function()
  it("is retried, and the job completes", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = pool_of { s }
    local retried
    pool:on("job:retrying", function(e) retried = e end)
    local r = pool:submit(picture()):wait()
    assert.equal("completed", r.status)
    assert.is_nil(r.error)
    assert.equal(2, r.attempts)
    assert.equal(2, #r.profile.attempts)
    assert.equal("node_error", r.profile.attempts[1].outcome)
    assert.is_true(retried.will_retry)
    assert.matches("it broke", retried.error)
  end)

  it("ends the job after max_attempts of the pool", function()
    local s = sim()
    s:fail { class = "KSampler", times = 100, type = "ValueError", message = "no good" }
    local r = pool_of({ s }, { max_attempts = 2 }):submit(picture()):wait()
    assert.equal("failed", r.status)
    assert.equal(2, r.attempts)
    assert.equal("node_error", r.error.kind)
    assert.equal("3", r.error.node)
    assert.equal("KSampler", r.error.node_type)
    assert.matches("ValueError: no good", r.error.message)
    assert.equal("ValueError", r.error.details.exception_type)
    assert.matches("^node_error: ", tostring(r.error))
  end)

  it("ends the job after max_attempts of its own", function()
    local s = sim()
    s:fail { class = "KSampler", times = 100 }
    local r = pool_of { s }:submit(picture(), { max_attempts = 1 }):wait()
    assert.equal("failed", r.status)
    assert.equal(1, r.attempts)
    assert.equal(1, s:record().prompts)
  end)

  it("shows in the profile", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local p = pool_of { s }:submit(picture(), { max_attempts = 1 }):wait().profile
    assert.equal(1, p.summary.failedNodes)
    for _, n in ipairs(p.nodes) do
      if n.nodeId == "3" then assert.equal("failed", n.status) end
      if n.nodeId == "9" then assert.equal("pending", n.status) end
    end
    assert.equal(p.summary.totalNodes, p.summary.executedNodes + p.summary.cachedNodes + p.summary.failedNodes + p.summary.pendingNodes)
  end)

  it("sends the job to another client", function()
    local a, b = sim(), sim()
    a:fail { class = "KSampler", times = 100 }
    local pool = new_pool()
    pool:add_client(a.url, { priority = 1 })
    local cb = pool:add_client(b.url)
    assert(pool:init())
    local r = pool:submit(picture()):wait()
    assert.equal("completed", r.status)
    assert.equal(2, r.attempts)
    assert.equal(cb.name, r.client)
  end)

  it("is told apart when memory ran out", function()
    local s = sim()
    s:fail { class = "KSampler", times = 9, type = "torch.OutOfMemoryError", message = "Allocation on device" }
    local r = pool_of { s }:submit(picture(), { max_attempts = 1 }):wait()
    assert.equal("out_of_memory", r.error.kind)
  end)

  it("leaves the others alone", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = pool_of { s }
    local bad, good = pool:submit(picture(), { max_attempts = 1 }), pool:submit(picture():input("3", "seed", 2))
    assert.equal("failed", bad:wait().status)
    assert.equal("completed", good:wait().status)
  end)
end)

for _, version in ipairs { "0.18.1", "2024-10" } do
  describe("a refusal by a server of " .. version, function()
    it("for a missing class is client_incompatible", function()
      local pool = pool_of { sim { version = version } }
      local r = pool:submit(changed("SaveImage", "NoSuchNode")):wait()
      assert.equal("failed", r.status)
      assert.equal("client_incompatible", r.error.kind)
    end)

    it("for a model that is not there is client_incompatible", function()
      local pool = pool_of { sim { version = version } }
      local r = pool:submit(picture():input("4", "ckpt_name", "nowhere.safetensors")):wait()
      assert.equal("failed", r.status)
      assert.equal("client_incompatible", r.error.kind)
      assert.matches("nowhere.safetensors", r.error.message)
      assert.equal("4", r.error.node)
    end)

    it("for a value that is wrong everywhere is workflow_invalid", function()
      local s = sim { version = version }
      local r = pool_of { s }:submit(picture():input("3", "steps", 0)):wait()
      assert.equal("failed", r.status)
      assert.equal("workflow_invalid", r.error.kind)
      assert.equal("3", r.error.node)
      assert.matches("steps", r.error.message)
      assert.equal("table", type(r.error.details))
      assert.equal(0, s:record().prompts)
    end)

    it("of some outputs fails the job", function()
      local s = sim { version = version }
      local r = pool_of { s }:submit(half_wrong()):wait()
      assert.equal("failed", r.status)
      assert.equal("workflow_invalid", r.error.kind)
      assert.equal("10", r.error.node)
      till("nothing is left on the server", function() return s:record().waiting == 0 end)
    end)

    it("of some outputs fails the job, also when the rest has ended before the reply says so", function()
      local s = sim { version = version, early = true }
      local pool = pool_of { s }
      assert.equal("completed", pool:submit(half_wrong(), { partial_outputs = true }):wait().status)       -- and is cached
      local r = pool:submit(half_wrong()):wait()
      assert.equal("failed", r.status)
      assert.equal("workflow_invalid", r.error.kind)
      assert.equal("completed", pool:submit(half_wrong(), { partial_outputs = true }):wait().status)
      assert.equal(3, s:record().prompts)
    end)

    it("of some outputs is taken when the job allows partial outputs", function()
      local r = pool_of { sim { version = version } }:submit(half_wrong(), { partial_outputs = true }):wait()
      assert.equal("completed", r.status)
      assert.is_table(r.outputs["9"])
      assert.is_nil(r.outputs["10"])
    end)
  end)
end

describe("a class that one server lacks", function()
  local function without_sampler()
    local pool, c = pool_of { sim() }
    local info = assert(c:object_info())
    info.KSampler = nil
    pool:shutdown()
    return sim { catalogue = moonpool.json.encode(info) }
  end

  it("sends the job to a server that has it, and the next one at once", function()
    local a, b = without_sampler(), sim()
    local pool = new_pool()
    local ca, cb = pool:add_client(a.url, { priority = 1 }), pool:add_client(b.url)
    assert(pool:init())
    local blocked
    pool:on("client:blocked_workflow", function(e) blocked = e.client end)
    local r = pool:submit(picture()):wait()
    assert.equal("completed", r.status)
    assert.equal(cb.name, r.client)
    assert.equal(1, r.attempts)
    assert.equal(ca.name, blocked)
    assert.same({ cb }, pool:clients_for(picture()))
    assert.equal(cb.name, pool:submit(picture()):wait().client)
    assert.equal(0, a:record().prompts)
  end)

  it("ends the job when no server has it", function()
    local a, b = without_sampler(), without_sampler()
    local pool = pool_of { a, b }
    local r = pool:submit(picture()):wait()
    assert.equal("failed", r.status)
    assert.equal("client_incompatible", r.error.kind)
  end)
end)

describe("cancel", function()
  it("of a pending job", function()
    local pool = new_pool()
    pool:add_client(nowhere())
    local job = pool:submit(picture())
    local told
    job:on("canceled", function(e) told = e.job_id end)
    assert.is_true(job:cancel())
    local r = job:wait()
    assert.equal("canceled", r.status)
    assert.equal("canceled", r.error.kind)
    assert.equal(job.id, told)
    assert.equal(0, r.profile.executionTime)
    assert.is_nil(r.profile.startedAt)
  end)

  it("of a job whose POST is under way", function()
    local s = sim()
    local pool = pool_of { s }
    s:stall(100)
    local job = pool:submit(endless())
    assert.is_true(job:cancel())
    assert.equal("canceled", job:wait().status)
    local next_one = pool:submit(picture()):wait()
    assert.equal("completed", next_one.status)
    assert.equal(0, s:record().waiting)
  end)

  it("of a job that waits on the server", function()
    local s = sim { speed = 1 }
    local pool = pool_of { s }
    local first, second = pool:submit(endless()), pool:submit(picture())
    till("both are on the server", function() return s:record().waiting == 2 end)
    till("the first one runs", function() return first.status == "running" end)
    assert.equal("assigned", second.status)
    assert.is_true(second:cancel())
    assert.equal("canceled", second:wait().status)
    till("it is deleted there", function() return s:record().waiting == 1 end)
    assert.equal("running", first.status)
    assert.equal(0, s:record().interrupted)
  end)

  for _, version in ipairs { "0.18.1", "2024-10" } do
    it("of a job that runs on a server of " .. version, function()
      local s = sim { speed = 1, version = version }
      local pool = pool_of { s }
      local job = pool:submit(endless())
      till("it runs", function() return job.status == "running" end)
      assert.is_true(job:cancel())
      assert.equal("canceled", job:wait().status)
      till("it is interrupted there", function() return s:record().waiting == 0 end)
      assert.equal(1, s:record().interrupted)
    end)
  end

  it("of a job that ended does nothing", function()
    local pool = pool_of { sim() }
    local job = pool:submit(picture())
    assert.equal("completed", job:wait().status)
    assert.is_false(job:cancel())
    assert.equal("completed", job.status)
  end)

  it("of a job that waits for its retry", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = pool_of({ s }, { retry_delay_ms = 3600000 })
    local job = pool:submit(picture())
    till("it waits", function() return pool:stats().delayed == 1 end)
    assert.equal("pending", job.status)
    assert.is_true(job:cancel())
    assert.equal("canceled", job:wait().status)
    assert.equal(0, pool:stats().delayed)
  end)

  it("wakes whoever waits", function()
    local s = sim()
    s:wedge()
    local pool = pool_of { s }
    local job = pool:submit(picture())
    local waiter = moonpool.spawn(function() return job:wait().status end)
    moonpool.spawn(function() job:cancel() end)
    assert.equal("canceled", waiter:wait())
  end)

  it("of all of many leaves the server empty", function()
    local s = sim { speed = 1 }
    local pool = pool_of { s }
    local jobs = {}
    for i = 1, 6 do jobs[i] = pool:submit(endless():input("3", "seed", i)) end
    till("two are there", function() return s:record().waiting == 2 end)
    for _, j in ipairs(jobs) do j:cancel() end
    for _, j in ipairs(jobs) do assert.equal("canceled", j:wait().status) end
    till("the server is empty", function() return s:record().waiting == 0 end)
  end)
end)

describe("job:wait", function()
  it("that runs out gives nil and an error, and the job goes on", function()
    local s = sim()
    local pool = pool_of { s }
    s:stall(200)
    local job = pool:submit(picture())
    local r, err = job:wait(1)
    assert.is_nil(r)
    assert.equal("timeout", err.kind)
    assert.is_false(job.ended)
    assert.equal("completed", job:wait().status)
  end)

  it("gives the same again", function()
    local pool = pool_of { sim() }
    local job = pool:submit(picture())
    assert.equal(job:wait().prompt_id, job:wait(0).prompt_id)
    assert.equal("completed", job:result().status)
  end)

  it("wakes all who wait", function()
    local pool = pool_of { sim() }
    local job = pool:submit(picture())
    local tasks = {}
    for i = 1, 3 do tasks[i] = moonpool.spawn(function() return job:wait().job_id end) end
    assert.same({ job.id, job.id, job.id }, moonpool.task.all(tasks))
  end)

  it("wants a number of milliseconds", function()
    local pool = new_pool()
    local job = pool:submit(picture())
    assert.error_matches(function() job:wait "soon" end, "milliseconds expected, got string")
  end)
end)

describe("pool:results", function()
  local function ids(list)
    local all = {}
    for _, j in ipairs(list) do all[#all + 1] = j.id end
    table.sort(all)
    return all
  end
  local function drained(pool)
    local all = {}
    for r in pool:results() do all[#all + 1] = r.job_id end
    table.sort(all)
    return all
  end

  it("gives each job once, then ends", function()
    local pool = pool_of { sim(), sim() }
    local jobs = {}
    for i = 1, 8 do jobs[i] = pool:submit(picture():input("3", "seed", i)) end
    assert.same(ids(jobs), drained(pool))
    assert.same({}, drained(pool))
  end)

  it("gives those that finished before", function()
    local pool = pool_of { sim() }
    local jobs = { pool:submit(picture()), pool:submit(picture()), pool:submit(picture()) }
    till("all are completed", function() return pool:stats().completed == 3 end)
    assert.same(ids(jobs), drained(pool))
  end)

  it("gives failed and canceled ones too", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool = pool_of { s }
    local bad = pool:submit(picture(), { max_attempts = 1 })
    local stopped = pool:submit(endless())
    stopped:cancel()
    local seen = {}
    for r in pool:results() do seen[r.job_id] = r.status end
    assert.same({ [bad.id] = "failed", [stopped.id] = "canceled" }, seen)
  end)

  it("ends at once for a pool without jobs", function()
    assert.same({}, drained(new_pool()))
  end)

  it("gives jobs submitted while it is read", function()
    local pool = pool_of { sim() }
    pool:submit(picture())
    local n = 0
    for _ in pool:results() do
      n = n + 1
      if n < 4 then pool:submit(picture():input("3", "seed", n)) end
    end
    assert.equal(4, n)
  end)

  it("shares the jobs between several readers", function()
    local pool = pool_of { sim() }
    local seen, n = {}, 0
    for i = 1, 6 do pool:submit(picture():input("3", "seed", i)) end
    local function reader()
      for r in pool:results() do
        assert(not seen[r.job_id])
        seen[r.job_id] = true
        n = n + 1
      end
    end
    moonpool.task.all { moonpool.spawn(reader), moonpool.spawn(reader) }
    assert.equal(6, n)
  end)

  it("keeps what nobody fetched, however small completed_retention is", function()
    local pool = pool_of({ sim() }, { completed_retention = 1 })
    local jobs = {}
    for i = 1, 5 do jobs[i] = pool:submit(picture():input("3", "seed", i)).id end
    collectgarbage()
    till("all are completed", function() return pool:stats().completed == 5 end)
    table.sort(jobs)
    assert.same(jobs, drained(pool))
  end)
end)

describe("completed_retention", function()
  local function run(pool, seed) return pool:submit(picture():input("3", "seed", seed)):wait().job_id end

  -- The ids of so many jobs that were fetched, one after the other; nobody holds on to them.
  local function fetched(pool, n)
    local ids = {}
    for i = 1, n do
      ids[i] = run(pool, i)
      collectgarbage()
    end
    return ids
  end

  it("keeps so many jobs that were fetched for pool:job, the newest", function()
    local pool = pool_of({ sim() }, { completed_retention = 2 })
    local ids = fetched(pool, 5)
    for i = 1, 3 do assert.is_nil(pool:job(ids[i])) end
    for i = 4, 5 do assert.same({ ids[i], "completed" }, { pool:job(ids[i]).id, pool:job(ids[i]):result().status }) end
  end)

  it("of 0 keeps all", function()
    local pool = pool_of({ sim() }, { completed_retention = 0 })
    for i, id in ipairs(fetched(pool, 5)) do assert.equal(i, pool:job(id):result().workflow:input("3", "seed")) end
  end)
end)

describe("events", function()
  it("of a job come in order", function()
    local pool = pool_of { sim() }
    local seen = {}
    for _, name in ipairs { "queued", "accepted", "started", "output", "completed", "failed", "canceled" } do
      pool:on("job:" .. name, function(e) seen[#seen + 1] = e.name end)
    end
    pool:submit(picture()):wait()
    assert.same({ "job:queued", "job:accepted", "job:started", "job:output", "job:completed" }, seen)
  end)

  it("go to the listeners of their job only", function()
    local pool = pool_of { sim() }
    local a, b = pool:submit(picture()), pool:submit(picture():input("3", "seed", 2))
    local of_a, of_b = 0, 0
    a:on("completed", function(e) of_a = of_a + 1; assert(e.job_id == a.id) end)
    b:on("completed", function(e) of_b = of_b + 1; assert(e.job_id == b.id) end)
    a:wait()
    b:wait()
    assert.same({ 1, 1 }, { of_a, of_b })
  end)

  it("tell progress, step by step, up to the whole", function()
    local pool = pool_of { sim { speed = 1, costs = costs { ms = 0, step_ms = 150 } } }
    local job = pool:submit(picture():input("3", "steps", 3))
    local values, overall = {}, 0
    job:on("progress", function(e)
      assert(e.node == "3" and e.max == 3)
      values[#values + 1] = e.value
      assert(e.overall >= overall and e.overall <= 1)
      overall = e.overall
    end)
    job:wait()
    assert.equal(3, values[#values])
    assert.is_true(overall > 0)
  end)

  it("carry previews", function()
    local pool = pool_of { sim { speed = 1, previews = true, costs = costs { ms = 0, step_ms = 150 } } }
    local job = pool:submit(picture():input("3", "steps", 3))
    local image, node, format
    job:on("preview", function(e) image, node, format = e.image, e.node, e.format end)
    assert.equal("completed", job:wait().status)
    assert.equal("3", node)
    assert.is_true(#image > 20)
    assert.is_true(format == "png" or format == "jpeg" or format == "webp")
  end)

  it("carry the output of a node", function()
    local pool = pool_of { sim() }
    local job = pool:submit(picture())
    local output
    job:on("output", function(e) output = e end)
    local r = job:wait()
    assert.equal("9", output.node)
    assert.same(r.outputs["9"].images[1].filename, output.output.images[1].filename)
  end)

  it("tell of clients", function()
    local s = sim()
    local pool = new_pool()
    local states = {}
    pool:on("client:state", function(e) states[#states + 1] = e.state end)
    local c = pool:add_client(s.url)
    assert(pool:init())
    s:drop()
    till("it is back", function() return #states >= 3 and c.online end)
    assert.same({ "idle", "offline", "idle" }, states)
  end)

  it("carry the server's own messages, all or by type", function()
    local pool = pool_of { sim() }
    local all, nodes = 0, {}
    pool:on("client:message", function() all = all + 1 end)
    pool:on("client:executing", function(e) nodes[#nodes + 1] = e.event_data.node end)
    pool:submit(picture()):wait()
    till("the last one has come", function() return #nodes >= 7 end)
    assert.is_true(all > #nodes)
    assert.equal("4", nodes[1])
  end)

  it("that raise do not disturb the others", function()
    local pool = pool_of { sim() }
    local seen = 0
    pool:on("job:started", function() error "on purpose" end)
    pool:on("job:started", function() seen = seen + 1 end)
    assert.equal("completed", pool:submit(picture()):wait().status)
    assert.equal(1, seen)
  end)

  it("stop for a listener that was taken off", function()
    local pool = pool_of { sim() }
    local seen = 0
    local function count() seen = seen + 1 end
    pool:on("job:completed", count)
    pool:submit(picture()):wait()
    pool:off("job:completed", count)
    pool:submit(picture()):wait()
    assert.equal(1, seen)
  end)

  it("may submit, cancel and spawn", function()
    local pool = pool_of { sim() }
    local second, spawned
    pool:on("job:completed", function()
      if second then return end
      second = pool:submit(picture())
      pool:submit(endless()):cancel()
      moonpool.spawn(function() spawned = second:wait().status end)
    end)
    pool:submit(picture())
    for _ in pool:results() do end
    till("the task is through", function() return spawned end)
    assert.equal("completed", spawned)
    assert.equal(1, pool:stats().canceled)
  end)

  it("may end the pool", function()
    local pool = pool_of { sim() }
    local done = false
    pool:on("job:completed", function()
      pool:shutdown()
      done = true
    end)
    pool:submit(picture())
    till("it has ended", function() return done end)
    for _ = 1, 10 do moonpool.step(1) end
    assert.has_error(function() pool:stats() end)
  end)
end)

describe("waiting in a callback", function()
  local function words_of(fn)
    local pool = pool_of { sim() }
    local ok, words
    pool:on("job:started", function() ok, words = pcall(fn, pool) end)
    pool:submit(picture()):wait()
    assert.is_false(ok)
    return words
  end

  it("raises for job:wait", function()
    assert.matches("use moonpool.spawn", words_of(function(pool) pool:submit(picture()):wait() end))
  end)
  it("raises for sleep", function() assert.matches("use moonpool.spawn", words_of(function() moonpool.sleep(1) end)) end)
  it("raises for results", function()
    assert.matches("use moonpool.spawn", words_of(function(pool) for _ in pool:results() do end end))
  end)
  it("raises for http.request", function()
    assert.matches("use moonpool.spawn", words_of(function(pool) pool:clients()[1]:system_stats() end))
  end)
  it("raises for a task's wait", function()
    assert.matches("use moonpool.spawn", words_of(function() moonpool.spawn(function() end):wait() end))
  end)
  it("raises for a step", function() assert.matches("step inside a step", words_of(function() moonpool.step(1) end)) end)

  it("raises in a hook too", function()
    local ok, words
    local pool = pool_of({ sim() }, { policy = { route = function() ok, words = pcall(moonpool.sleep, 1) end } })
    assert.equal("completed", pool:submit(picture()):wait().status)
    assert.is_false(ok)
    assert.matches("use moonpool.spawn", words)
  end)

  it("raises in a coroutine of one's own inside a callback", function()
    assert.matches("use moonpool.spawn", words_of(function() coroutine.wrap(function() moonpool.sleep(1) end)() end))
  end)
end)

describe("seeds of -1", function()
  it("get a number, which is told and sent", function()
    local pool, c = pool_of { sim() }
    local wf = picture():input("3", "seed", -1)
    local r = pool:submit(wf):wait()
    assert.equal(1, #r.auto_seeds)
    local s = r.auto_seeds[1]
    assert.equal("3", s.node)
    assert.equal("seed", s.input)
    assert.is_true(math.type(s.seed) == "integer" and s.seed >= 0)
    assert.equal(s.seed, r.workflow:input("3", "seed"))
    assert.equal(-1, wf:input("3", "seed"))
    local entry = assert(c:history(r.prompt_id))[r.prompt_id]
    assert.equal(s.seed, entry.prompt[3]["3"].inputs.seed)
  end)

  it("differ from job to job", function()
    local pool = pool_of { sim() }
    local wf = picture():input("3", "seed", -1)
    local a, b = pool:submit(wf), pool:submit(wf)
    assert.not_equal(a:wait().auto_seeds[1].seed, b:wait().auto_seeds[1].seed)
  end)

  it("are kept for the job's retries", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local pool, c = pool_of { s }
    local r = pool:submit(picture():input("3", "seed", -1)):wait()
    assert.equal(2, r.attempts)
    local n = 0
    for _, entry in pairs(assert(c:history())) do
      n = n + 1
      assert.equal(r.auto_seeds[1].seed, entry.prompt[3]["3"].inputs.seed)
    end
    assert.equal(2, n)
  end)

  it("count as such in noise_seed too: in the text, changed, and new", function()
    local pool, c = pool_of { sim { any_node = true } }
    local function sampler(value) return changed('"KSampler", "inputs": {"seed": 1,', '"MySampler", "inputs": {"noise_seed": ' .. value .. ",") end
    for _, wf in ipairs { sampler "-1", sampler("7"):input("3", "noise_seed", -1), picture():input("3", "noise_seed", -1) } do
      local r = pool:submit(wf):wait()
      assert.same({ "completed", 1 }, { r.status, #r.auto_seeds })
      local s = r.auto_seeds[1]
      assert.same({ "3", "noise_seed", "integer" }, { s.node, s.input, math.type(s.seed) })
      assert.is_true(s.seed >= 0)
      assert.equal(s.seed, assert(c:history(r.prompt_id))[r.prompt_id].prompt[3]["3"].inputs.noise_seed)
    end
  end)

  it("leave other seeds as they are", function()
    local r = pool_of { sim() }:submit(picture():set("3.seed", 18446744073709551615)):wait()
    assert.same({}, r.auto_seeds)
  end)
end)

describe("metadata", function()
  it("comes back in the result and the job", function()
    local pool = pool_of { sim() }
    local m = { user = "anna", n = 3, deep = { list = { 1, 2, { x = true } } } }
    local job = pool:submit(picture(), { metadata = m })
    assert.same(m, job.metadata)
    m.user = "changed afterwards"
    assert.equal("anna", job:wait().metadata.user)
    assert.same({ 1, 2, { x = true } }, job:wait().metadata.deep.list)
  end)

  it("is nil when there is none", function()
    assert.is_nil(pool_of { sim() }:submit(picture()):wait().metadata)
  end)

  it("that JSON cannot hold raises", function()
    local pool = new_pool()
    assert.has_error(function() pool:submit(picture(), { metadata = { f = print } }) end)
    assert.equal(0, pool:stats().unfinished)
  end)

  it("does not go to the server, extra_data does", function()
    local pool, c = pool_of { sim() }
    local r = pool:submit(picture(), { metadata = { secret = "not for them" }, extra_data = { mine = "yes" } }):wait()
    local reply = assert(c:get("/history/" .. r.prompt_id))
    assert.is_nil(reply.body:find("not for them", 1, true))
    local entry = moonpool.json.decode(reply.body)[r.prompt_id]
    assert.equal("yes", entry.prompt[4].mine)
    assert.is_string(entry.prompt[4].moonpool)
  end)
end)

describe("outputs", function()
  it("of two nodes are both there", function()
    local r = pool_of { sim() }:submit(two_outputs()):wait()
    assert.equal("completed", r.status)
    assert.equal(1, #r.outputs["9"].images)
    assert.equal(1, #r.outputs["10"].images)
    assert.equal(2, #r.images)
    assert.equal(2, #r.files)
  end)

  it("have the names the workflow gave them", function()
    local r = pool_of { sim() }:submit(two_outputs():output("final", "9")):wait()
    assert.same(r.outputs["9"], r.outputs.final)
  end)

  it("of a batch are all there", function()
    local r = pool_of { sim() }:submit(picture():input("5", "batch_size", 3)):wait()
    assert.equal(3, #r.images)
  end)

  it("of a rerun that the server had cached are there again", function()
    local pool = pool_of { sim() }
    local a, b = pool:submit(picture()):wait(), pool:submit(picture()):wait()
    assert.equal(a.images[1].filename, b.images[1].filename)
    assert.is_true(b.profile.summary.cachedNodes > 0)
  end)

  it("can be fetched", function()
    local pool = pool_of { sim() }
    local r = pool:submit(picture()):wait()
    local bytes = assert(r:fetch(r.images[1]))
    assert.equal("\137PNG\r\n\26\n", bytes:sub(1, 8))
    assert.equal(bytes, assert(moonpool.http.request { url = r.images[1].url }).body)
  end)

  it("can be saved, as PNG files", function()
    local folder = H.folder "pool_save"
    local r = pool_of { sim() }:submit(two_outputs()):wait()
    local paths = assert(r:save(folder .. "/a/b/"))
    assert.equal(2, #paths)
    for _, path in ipairs(paths) do
      assert.is_truthy(path:find(folder .. "/a/b/", 1, true))
      assert.equal("\137PNG\r\n\26\n", H.read(path):sub(1, 8))
    end
    assert.equal("2\n", (H.run("ls " .. folder .. "/a/b | wc -l")))
  end)

  it("are saved under a pattern", function()
    local folder = H.folder "pool_pattern"
    local r = pool_of { sim() }:submit(picture()):wait()
    local paths = assert(r:save(folder, { pattern = "{node}-{index}-{job}.{ext}" }))
    assert.same({ folder .. "/9-1-" .. r.job_id .. ".png" }, paths)
  end)

  it("that cannot be written give an error", function()
    local folder = H.folder "pool_unwritable"
    H.write(folder .. "/file", "")
    local r = pool_of { sim() }:submit(picture()):wait()
    local paths, err = r:save(folder .. "/file/below")
    assert.is_nil(paths)
    assert.equal("io", err.kind)
  end)

  it("that the server no longer has give an error", function()
    local s = sim()
    local r = pool_of { s }:submit(picture()):wait()
    local bytes, err = r:fetch { filename = "nothing.png", subfolder = "", type = "output" }
    assert.is_nil(bytes)
    assert.equal("server", err.kind)
    assert.matches("404", err.message)
  end)

  it("of what failed are empty", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1 }
    local r = pool_of { s }:submit(picture(), { max_attempts = 1 }):wait()
    assert.same({}, r.images)
    assert.same({}, r:save(H.folder "pool_nothing"))
  end)
end)

describe("profiling", function()
  it("adds up", function()
    local p = pool_of { sim() }:submit(picture()):wait().profile
    assert.is_true(p.exact)
    assert.near(p.totalDuration, p.queueTime + p.executionTime, 1e-6)
    assert.near(p.queueTime, p.poolQueueTime + p.uploadTime + p.serverQueueTime + p.retryTime, 1e-6)
    local sum = 0
    for _, n in ipairs(p.nodes) do sum = sum + n.duration end
    assert.near(sum, p.executionTime - p.gapTime + p.overlapTime, 1e-6)
    assert.equal(7, p.summary.executedNodes)
  end)

  it("can be off, for the pool or a job", function()
    local pool = pool_of({ sim() }, { profiling = false })
    assert.is_nil(pool:submit(picture()):wait().profile)
    assert.is_table(pool:submit(picture(), { profiling = true }):wait().profile)
  end)

  it("counts what fetching took", function()
    local r = pool_of { sim { delay_ms = 5 } }:submit(picture()):wait()
    assert(r:fetch(r.images[1]))
    assert.is_true(r.job.profile.transferTime > 0)
  end)
end)

describe("pool <close>", function()
  it("cancels what is left, and every waiter gets a result", function()
    local s = sim { speed = 1 }
    local waiters, jobs = {}, {}
    do
      local pool <close> = moonpool.pool { log_level = "silent" }
      pool:add_client(s.url)
      assert(pool:init())
      for i = 1, 4 do
        jobs[i] = pool:submit(endless())
        waiters[i] = moonpool.spawn(function() return jobs[i]:wait() end)
      end
      till("one runs", function() return jobs[1].status == "running" end)
      till("one waits there", function() return s:record().waiting == 2 end)
    end
    for i = 1, 4 do assert.equal("canceled", waiters[i]:wait().status) end
    assert.equal(0, s:record().waiting)
  end)

  it("leaves results that can be read", function()
    local r
    do
      local pool <close> = moonpool.pool { log_level = "silent" }
      pool:add_client(sim().url)
      r = pool:submit(picture(), { metadata = { a = 1 } }):wait()
    end
    assert.equal("completed", r.status)
    assert.equal(7, r.profile.summary.totalNodes)
    assert.equal(1, #r.images)
    assert.same({ a = 1 }, r.metadata)
  end)

  it("makes later use raise", function()
    local pool = new_pool()
    local job = pool:submit(picture())
    pool:shutdown()
    pool:shutdown()
    assert.error_matches(function() pool:submit(picture()) end, "closed")
    assert.error_matches(function() return job.status end, "gone")
    for _ in pool:results() do error "nothing is left" end
  end)

  it("ends a wait of results()", function()
    local s = sim()
    s:wedge()
    local pool = pool_of { s }
    pool:submit(picture())
    local reader = moonpool.spawn(function()
      local seen = {}
      for r in pool:results() do seen[#seen + 1] = r.status end
      return seen
    end)
    till("it is there", function() return s:record().waiting == 1 end)
    pool:shutdown()
    assert.same({ "canceled" }, reader:wait())
  end)

  it("happens without a word when the pool is garbage", function()
    local s = sim()
    s:wedge()
    do
      local pool = moonpool.pool { log_level = "silent" }
      pool:add_client(s.url)
      assert(pool:init())
      pool:submit(picture())
    end
    collectgarbage()
    collectgarbage()
    for _ = 1, 10 do moonpool.step(1) end
    assert.equal("completed", pool_of { sim() }:submit(picture()):wait().status)
  end)

  it("with drain finishes the work", function()
    local pool = pool_of { sim() }
    local jobs = {}
    for i = 1, 4 do
      local job = pool:submit(picture():input("3", "seed", i))
      jobs[i] = moonpool.spawn(function() return job:wait().status end)
    end
    pool:shutdown { drain = true }
    assert.same({ "completed", "completed", "completed", "completed" }, moonpool.task.all(jobs))
  end)
end)

describe("a server that", function()
  -- A job of thirty steps of ten milliseconds on s; calls fault() when the sampler works.
  local function in_mid_job(s, pool, fault)
    local job = pool:submit(picture():input("3", "steps", 30))
    till("the job runs", function() return job.status == "running" end)
    till("its sampler works", function()
      local p = job.profile
      for _, n in ipairs(p and p.nodes or {}) do
        if n.nodeId == "3" and n.status == "executing" then return true end
      end
    end)
    fault(s)
    return job:wait()
  end
  local function slow(version) return sim { speed = 1, version = version, costs = costs { ms = 0, step_ms = 10 } } end

  local function states_of(profile)
    local all = {}
    for _, n in ipairs(profile.nodes) do all[n.status] = (all[n.status] or 0) + 1 end
    return all
  end

  for _, version in ipairs { "0.18.1", "2024-10" } do
    describe("is of " .. version .. " and", function()
      it("runs jobs", function()
        local pool, c = pool_of { sim { version = version } }
        local r = pool:submit(picture()):wait()
        assert.equal("completed", r.status)
        assert.equal(1, #r.images)
        assert.is_true(r.profile.exact)
        assert.is_table(assert(c:history(r.prompt_id))[r.prompt_id])
      end)

      it("restarts in mid job", function()
        local s = slow(version)
        local pool = pool_of { s }
        local r = in_mid_job(s, pool, function() s:restart(100) end)
        assert.equal("completed", r.status)
        assert.equal(2, s:record().prompts)
        assert.equal(1, #r.images)
        assert.same({ completed = 7 }, states_of(r.profile))
        assert.equal(2, #r.profile.attempts)
        assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
      end)

      it("drops the socket in mid job, and we are back before its end", function()
        local s = slow(version)
        local pool = pool_of({ s }, { reconnect_base_ms = 4 })
        local r = in_mid_job(s, pool, function() s:drop() end)
        assert.equal("completed", r.status)
        assert.equal(1, s:record().prompts)
        assert.equal(1, #r.images)
        assert.is_boolean(r.profile.exact)
        assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
      end)

      -- The first picture is shown while nobody listens (some 20 ms after the loss, we are back after 100 and more), the
      -- second a second later, to us.
      it("drops the socket in mid job and shows a picture meanwhile, which is not lost", function()
        local s = slow(version)
        local pool = pool_of({ s }, { reconnect_base_ms = 200 })
        local wf = moonpool.json.decode(picture():input("3", "steps", 2):to_json())
        wf["11"] = { class_type = "PreviewImage", inputs = { images = { "8", 0 } } }
        wf["12"] = { class_type = "KSampler", inputs = {} }
        for k, v in pairs(wf["3"].inputs) do wf["12"].inputs[k] = v end
        wf["12"].inputs.latent_image, wf["12"].inputs.steps = { "14", 0 }, 100
        wf["14"] = { class_type = "VAEEncode", inputs = { pixels = { "8", 0 }, vae = wf["8"].inputs.vae } }
        wf["13"] = { class_type = "VAEDecode", inputs = { samples = { "12", 0 }, vae = wf["8"].inputs.vae } }
        wf["9"].inputs.images = { "13", 0 }
        local job, works = pool:submit(moonpool.workflow.from(wf)), false
        job:on("progress", function(e) works = works or e.node == "3" end)     -- told once, where a look at its state may come too late
        till("the first sampler works", function() return works end)
        s:drop()
        local r = job:wait()
        assert.equal("completed", r.status)
        assert.equal(2, #r.images)
        assert.equal(1, s:record().prompts)
      end)

      it("drops the socket in mid job, and we are back after its end: what nobody saw is not exact", function()
        local s = slow(version)
        local pool = pool_of({ s }, { reconnect_base_ms = 4000 })
        local r = in_mid_job(s, pool, function() s:drop() end)
        assert.equal("completed", r.status)
        assert.equal(1, s:record().prompts)
        assert.equal(1, #r.images)
        assert.is_false(r.profile.exact)
        assert.is_true(#r.profile.inferred > 0)
        assert.is_nil(states_of(r.profile).executing)
        assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
      end)

      it("stalls in mid job", function()
        local s = slow(version)
        local r = in_mid_job(s, pool_of { s }, function() s:stall(200) end)
        assert.equal("completed", r.status)
        assert.equal(1, s:record().prompts)
      end)

      it("drops the socket again and again", function()
        local s = slow(version)
        local pool = pool_of({ s }, { reconnect_base_ms = 20 })
        local job = pool:submit(picture():input("3", "steps", 30))
        till("it has ended", function()
          s:drop()
          moonpool.sleep(40)
          return job.ended
        end)
        assert.equal("completed", job:wait().status)
        assert.equal(1, s:record().prompts)
      end)
    end)
  end

  it("restarts answers nobody meanwhile, on kept connections neither", function()
    local s = sim()
    local _, c = pool_of { s }
    assert(c:system_stats())
    s:restart(3600000)
    local stats, err = c:system_stats()
    assert.is_nil(stats)
    assert.equal("connection", err.kind)
  end)

  it("ends in mid request ends nothing else", function()
    local s = moonpool.sim { speed = 50 }
    local pool, c = pool_of { s }
    assert(c:system_stats())
    s:stall(3600000)
    local asked = moonpool.spawn(function() return c:system_stats() end)
    for _ = 1, 5 do moonpool.step(1) end
    s:close()
    local stats, err = asked:wait()
    assert.is_nil(stats)
    assert.equal("connection", err.kind)
    assert.is_nil((c:queue()))
    till("the client is offline", function() return not c.online end)
    pool:add_client(sim().url)
    assert.equal("completed", pool:submit(picture()):wait().status)
  end)

  it("is gone for longer than unreachable_ms gives its job up to another", function()
    local a, b = slow(), sim()
    local pool = new_pool { unreachable_ms = 50 }
    pool:add_client(a.url, { priority = 1 })
    local cb = pool:add_client(b.url)
    assert(pool:init())
    local r = in_mid_job(a, pool, function() a:restart(3600000) end)
    assert.equal("completed", r.status)
    assert.equal(cb.name, r.client)
  end)

  it("serves two pools serves both", function()
    local s = sim()
    local one, two = pool_of { s }, pool_of { s }
    local n = 0
    for i = 1, 4 do
      one:submit(picture():input("3", "seed", i))
      two:submit(picture():input("3", "seed", 10 + i))
    end
    for r in one:results() do assert.equal("completed", r.status); n = n + 1 end
    for r in two:results() do assert.equal("completed", r.status); n = n + 1 end
    assert.equal(8, n)
    assert.equal(8, s:record().prompts)
  end)

  it("serves two pools keeps their jobs apart when one cancels", function()
    local s = sim { speed = 1, costs = costs { ms = 0, step_ms = 10 } }
    local one, two = pool_of { s }, pool_of { s }
    local mine = one:submit(endless())
    till("the first one runs", function() return mine.status == "running" end)
    local theirs = two:submit(picture())
    till("the second one waits", function() return s:record().waiting == 2 end)
    mine:cancel()
    assert.equal("completed", theirs:wait().status)
    assert.equal("canceled", mine:wait().status)
  end)

  it("interrupts our job at somebody's wish cancels it", function()
    local s = sim { speed = 1 }
    local pool, c = pool_of { s }
    local job = pool:submit(endless())
    till("it runs", function() return job.status == "running" end)
    assert(c:interrupt(job.prompt_id))
    local r = job:wait()
    assert.equal("canceled", r.status)
    assert.equal("interrupted", r.error.kind)
    assert.equal(1, s:record().prompts)
  end)

  it("loses a waiting prompt to somebody's delete runs it again", function()
    local s = sim { speed = 1, costs = costs { ms = 0, step_ms = 10 } }
    local pool, c = pool_of({ s }, { poll_ms = 20 })
    local first = pool:submit(picture():input("3", "steps", 60))
    local second = pool:submit(picture():input("3", "seed", 2))
    till("both are there and one runs", function() return s:record().waiting == 2 and first.status == "running" end)
    assert(c:post("/queue", { delete = { second.prompt_id } }))
    assert.equal("completed", first:wait().status)
    assert.equal("completed", second:wait().status)
  end)

  it("delays everything in both directions is no trouble", function()
    local pool = pool_of { sim { delay_ms = 10 } }
    local jobs = {}
    for i = 1, 4 do jobs[i] = pool:submit(picture():input("3", "seed", i)) end
    for _, j in ipairs(jobs) do assert.equal("completed", j:wait().status) end
  end)
end)

describe("max_queued", function()
  it("refuses the job that is too much", function()
    local pool = new_pool { max_queued = 2 }
    assert(pool:submit(picture()))
    assert(pool:submit(picture()))
    local job, err = pool:submit(picture())
    assert.is_nil(job)
    assert.equal("full", err.kind)
    assert.matches("max_queued", err.message)
    assert.equal(2, pool:stats().unfinished)
  end)

  it("takes jobs again when there is room", function()
    local pool = pool_of({ sim() }, { max_queued = 1 })
    local job = pool:submit(picture())
    assert.is_nil((pool:submit(picture())))
    job:wait()
    assert.equal("completed", assert(pool:submit(picture())):wait().status)
  end)
end)

describe("a policy", function()
  local function file(name, text)
    local path = H.folder(name) .. "/policy.lua"
    H.write(path, text)
    return path
  end
  local function two_clients(options)
    local a, b = sim(), sim()
    local pool = new_pool(options)
    pool:add_client(a.url, { name = "a" })
    pool:add_client(b.url, { name = "b" })
    assert(pool:init())
    return pool
  end
  local to_b = "return { route = function(job, clients) for _, c in ipairs(clients) do if c.name == 'b' then return c end end return false end }"

  it("of inline functions routes", function()
    local seen
    local pool = two_clients { policy = { route = function(job, clients, stage)
      seen = { #clients, stage, job.attempts, clients[1].state }
      for _, c in ipairs(clients) do
        if c.name == "b" then return c end
      end
      return false
    end } }
    for _ = 1, 3 do assert.equal("b", pool:submit(picture()):wait().client) end
    assert.same({ 2, 1, 0, "idle" }, seen)
  end)

  for _, name in ipairs { "default", "first_free", "least_busy", "round_robin" } do
    it("can be named: " .. name, function()
      local pool = two_clients { policy = name }
      for i = 1, 6 do pool:submit(picture():input("3", "seed", i)) end
      for r in pool:results() do assert.equal("completed", r.status) end
    end)
  end

  it("called default prefers the client that ran the workflow last", function()
    local pool, a = pool_of({ sim() }, { policy = "default" })
    assert.equal("completed", pool:submit(picture()):wait().status)
    local b = pool:add_client(sim().url, { priority = 5 })
    till("both are online", function() return b.online end)
    assert.equal(a.name, pool:submit(picture()):wait().client)
    assert.equal(a.name, pool:submit(two_outputs()):wait().client)             -- it holds the model
    assert.equal(b.name, pool:submit(picture():input("4", "ckpt_name", "sdxl.safetensors")):wait().client)
  end)

  it("can be a file", function()
    local pool = two_clients { policy = file("policy_file", to_b) }
    for _ = 1, 3 do assert.equal("b", pool:submit(picture()):wait().client) end
  end)

  it("can be a file with options, which requires what is beside it", function()
    local path = file("policy_options", "local o = ... local pick = require 'pick' return { route = function(_, c) return pick(c, o.name) end }")
    H.write((path:gsub("policy.lua", "pick.lua")), "return function(clients, name) for _, c in ipairs(clients) do if c.name == name then return c end end end")
    local pool = two_clients { policy = { path, name = "b" } }
    assert.equal("b", pool:submit(picture()):wait().client)
  end)

  it("can be a list: the first with an opinion decides", function()
    local asked = 0
    local pool = two_clients { policy = { { route = function() asked = asked + 1 end }, file("policy_list", to_b), "first_free" } }
    assert.equal("b", pool:submit(picture()):wait().client)
    assert.equal(1, asked)
  end)

  it("that answers false holds the job back until it is asked again", function()
    local asked = 0
    local pool = two_clients { recheck_ms = 5, policy = { route = function()
      asked = asked + 1
      if asked < 3 then return false end
    end } }
    assert.equal("completed", pool:submit(picture()):wait().status)
    assert.equal(3, asked)
  end)

  it("refuses jobs with a reason", function()
    local pool = two_clients { policy = { admit = function(job) return job.metadata ~= nil, "who are you" end } }
    local job, err = pool:submit(picture())
    assert.is_nil(job)
    assert.equal("policy", err.kind)
    assert.matches("who are you", err.message)
    assert.equal("completed", pool:submit(picture(), { metadata = { me = 1 } }):wait().status)
  end)

  it("changes what is sent, not what was submitted", function()
    local pool = two_clients { policy = { mutate = function(_, client, wf) wf:input("6", "text", "by " .. client.name) end } }
    local wf = picture()
    local r = pool:submit(wf):wait()
    assert.equal("by " .. r.client, r.workflow:input("6", "text"))
    assert.equal("a lighthouse", wf:input("6", "text"))
    assert.equal(wf.structure_hash, r.profile.structureHash)
  end)

  it("changes each attempt anew", function()
    local s = sim()
    s:fail { class = "KSampler", times = 2 }
    local pool = pool_of({ s }, { policy = { mutate = function(_, _, wf) return wf:input("6", "text", wf:input("6", "text") .. "!") end } })
    local r = pool:submit(picture()):wait()
    assert.equal(3, r.attempts)
    assert.equal("a lighthouse!", r.workflow:input("6", "text"))
  end)

  it("may ask for a retry, and may forbid it", function()
    local s = sim()
    s:fail { class = "KSampler", times = 2 }
    local told
    local pool = pool_of({ s }, { policy = { on_failure = function(_, f)
      told = f
      return "retry"
    end } })
    assert.equal("completed", pool:submit(picture(), { max_attempts = 1 }):wait().status)
    assert.equal("node_error", told.kind)
    assert.equal("3", told.node)
    local t = sim()
    t:fail { class = "KSampler", times = 1 }
    pool = pool_of({ t }, { policy = { on_failure = function() return "fail" end } })
    assert.equal("failed", pool:submit(picture()):wait().status)
  end)

  it("that always asks for a retry does not keep a job for ever", function()
    local s = sim()
    s:fail { class = "KSampler", times = 1000000 }
    local pool = pool_of({ s }, { retry_delay_ms = 0.001, policy = { on_failure = function() return "retry" end } })
    assert.equal("failed", pool:submit(picture()):wait().status)
  end)

  it("may not change the pool from inside a hook", function()
    local words = {}
    local pool, victim
    pool = two_clients { policy = { route = function(job, clients)
      for _, fn in ipairs { function() pool:submit(picture()) end, function() victim:cancel() end, function() clients[1]:remove() end, function() pool:shutdown() end } do
        words[#words + 1] = select(2, pcall(fn))
      end
      victim = job
    end } }
    victim = pool:submit(picture())
    assert.equal("completed", pool:submit(picture()):wait().status)
    assert.is_true(#words >= 4)
    for i = #words - 3, #words do assert.matches("policy runs", words[i]) end
  end)

  describe("that is wrong leaves the job completing:", function()
    local hooks = { "admit", "rank", "route", "mutate", "on_failure" }
    local faults = {
      raises = "error 'on purpose'",
      ["raises a table"] = "error {}",
      ["raises nothing"] = "error()",
      loops = "while true do end",
      ["loops against pcall"] = "while true do pcall(error) end",
      ["returns nonsense"] = "return {}, {}",
      ["returns other nonsense"] = "return 'so so'",
      ["returns not a number"] = "return 0/0",
    }
    local function run(options)
      local s = sim()
      s:fail { class = "KSampler", times = 1 }
      local r = pool_of({ s }, options):submit(picture()):wait()
      assert.equal("completed", r.status)
      assert.equal(2, r.attempts)
    end
    for _, hook in ipairs(hooks) do
      for fault, body in pairs(faults) do
        it(("inline %s %s"):format(hook, fault), function() run { policy = { [hook] = assert(load(body)) } } end)
        it(("%s of a file %s"):format(hook, fault), function()
          run { policy = file("policy_fault", ("return { %s = function() %s end }"):format(hook, body)) }
        end)
      end
    end
    it("a loop in a coroutine inside an inline hook", function()
      run { policy = { route = function() coroutine.wrap(function() while true do end end)() end } }
    end)
    it("a file that eats memory", function() run { policy = file("policy_memory", "return { route = function() local s = 'x' while true do s = s .. s end end }") } end)
    it("a file that recurses for ever", function() run { policy = file("policy_deep", "local function f() return 1 + f() end return { mutate = f }") } end)
    it("and is switched off after ten faults", function()
      local calls = 0
      local pool = pool_of({ sim() }, { policy = { route = function() calls = calls + 1; error "again" end } })
      for i = 1, 20 do pool:submit(picture():input("3", "seed", i)) end
      for r in pool:results() do assert.equal("completed", r.status) end
      assert.equal(10, calls)
    end)
  end)

  describe("in a file", function()
    -- What the expression gives inside the sandbox, as words.
    local function inside(expression)
      local ok, words = pcall(moonpool.pool, { policy = file("policy_inside", "error('<' .. tostring(" .. expression .. ") .. '>', 0)") })
      assert.is_false(ok)
      return words:match "<(.*)>"
    end

    for _, name in ipairs { "io", "os.execute", "os.remove", "os.getenv", "os.exit", "os.rename", "os.tmpname", "load", "loadfile", "dofile", "debug", "package", "coroutine",
                            "collectgarbage", "string.dump", "print" } do
      it("cannot reach " .. name, function() assert.equal("nil", inside(name)) end)
    end

    it("can use what it needs", function()
      assert.equal("function", inside "type(os.time)")
      assert.equal("function", inside "type(math.random)")
      assert.equal("function", inside "type(table.sort)")
      assert.equal("ab", inside "('a'):rep(1) .. 'b'")
      assert.equal("b", inside "('abc'):match 'a(.)c'")
      assert.equal("a.b", inside "(('a b'):gsub(' ', '.'))")
      assert.equal("4", inside "(('a_b_c'):find('_', 3, true))")
    end)

    it("cannot require what is elsewhere", function()
      for _, name in ipairs { "../policy", "/etc/passwd", "os", "moonpool", "moonpool.core", "a/b", "" } do
        assert.equal("false", inside(("(pcall(require, %q))"):format(name)))
      end
    end)

    it("is bounded in patterns and strings", function()
      assert.equal("false", inside "(pcall(string.rep, 'x', 2^21))")
      assert.equal("false", inside "(pcall(string.match, 'x', ('.-'):rep(20)))")
      assert.equal("false", inside "(pcall(string.find, ('x'):rep(70000), 'y'))")
      assert.equal("false", inside "(pcall(function() local s = ('x'):rep(2^20) for _ = 1, 10 do s = s .. s end end))")
    end)

    it("cannot get out by string methods or metatables", function()
      assert.equal("nil", inside "(''):gsub('', '') and getmetatable('').__index.dump")
      assert.equal("false", inside "(pcall((''):rep(0).rep, 'x', 2^21))")
      assert.equal("nil", inside "require == nil or rawget(_G, 'require') == nil or string.dump")
    end)

    it("cannot load byte code", function()
      local ok, words = pcall(moonpool.pool, { policy = file("policy_bytes", string.dump(function() end)) })
      assert.is_false(ok)
      assert.matches("binary", words)
    end)

    it("that does not load is refused in words", function()
      for text, words in pairs { ["return 5"] = "must return a table", ["return {"] = "policy.lua:1:", ["while true do end"] = "budget", ["error 'at load'"] = "at load" } do
        assert.error_matches(function() moonpool.pool { policy = file("policy_refused", text) } end, words)
      end
    end)

    it("that is not there is refused in words", function()
      assert.error_matches(function() moonpool.pool { policy = "no/such/file.lua" } end, "no/such/file.lua cannot be read")
      assert.error_matches(function() moonpool.pool { policy = "no_such" } end, "no policy called 'no_such'")
      assert.error_matches(function() moonpool.pool { policy = { rout = print } } end, "unknown hook 'rout'")
      assert.error_matches(function() moonpool.pool { policy = { route = 5 } } end, "hook 'route': a function expected, got number")
      assert.error_matches(function() moonpool.pool { policy = 5 } end, "option 'policy'")
    end)
  end)
end)
