-- What a pool does with servers and users that are not as they should be: clear words, and the rest goes on.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

local opened = {}
local function keep(object, close)
  opened[#opened + 1] = function() close(object) end
  return object
end

local function sim(options)
  local o = { speed = 50, costs = { KSampler = { ms = 0, step_ms = 30 }, VAEDecode = 1 } }
  for k, v in pairs(options or {}) do o[k] = v end
  return keep(assert(moonpool.sim(o)), function(s) s:close() end)
end

local function new_pool(options)
  local o = { log_level = "silent", reconnect_base_ms = 40, retry_delay_ms = 1, connect_timeout_ms = 5000 }
  for k, v in pairs(options or {}) do o[k] = v end
  return keep(moonpool.pool(o), function(p) p:shutdown { timeout_ms = 0 } end)
end

local function picture() return assert(moonpool.workflow.from(H.text_to_image)) end

local function till(what, pred)
  local bound = os.time() + 60
  while not pred() do
    if os.time() > bound then error("it never came to this: " .. what, 2) end
    moonpool.step(10)
  end
end

local function nowhere()
  local s = assert(moonpool.sim {})
  local url = s.url
  s:close()
  for _ = 1, 5 do moonpool.step(0) end
  return url
end

local python = os.execute "python3 -c '' >/dev/null 2>&1"

-- A bad server in a process of its own, which ends with the pipe to it.
local n_rogues = 0
local function rogue(mode)
  n_rogues = n_rogues + 1
  local said = H.folder("rogue" .. n_rogues) .. "/port"
  local pipe = assert(io.popen(("exec python3 tests/spec/rogue.py %s >%s 2>%s.err"):format(mode, said, said), "w"))
  keep(pipe, function(p) p:close() end)
  local port
  till("the rogue listens", function()
    local f = io.open(said)
    port = f and f:read "l"
    if f then f:close() end
    return port
  end)
  return "http://127.0.0.1:" .. port
end

describe("what a script gives wrongly", function()
  it("is named, with what was expected", function()
    local pool = new_pool()
    local c = assert(pool:add_client(nowhere()))
    for _, x in ipairs { { function() pool:submit(5) end, "submit: a workflow expected, got number" }, { function() pool:submit() end, "submit: a workflow expected, got nil" },
      { function() c:get() end, "client:get: a path expected" }, { function() c:post(nil, "x") end, "client:post: a path expected" },
      { function() moonpool.pool { inactivity_ms = 100 } end, "inactivity_ms" }, { function() moonpool.sim { random_errors = 3 } end, "random_errors" },
      { function() moonpool.http.request { url = "http://x", silence_ms = "x" } end, "silence_ms" } } do
      assert.error_matches(x[1], x[2])
    end
  end)
end)

after_each(K.clean)
after_each(function()
  for i = #opened, 1, -1 do pcall(opened[i]) end
  opened = {}
end)

describe("no servers", function()
  it("is what init says", function()
    local ok, err = new_pool():init()
    assert.is_nil(ok)
    assert.equal("no_clients: the pool has no clients", tostring(err))
  end)

  it("fails a job after no_client_ms", function()
    local r = new_pool { no_client_ms = 1 }:submit(picture()):wait()
    assert.equal("failed", r.status)
    assert.equal("no_clients", r.error.kind)
    assert.matches("the pool has no clients", r.error.message)
  end)

  it("that can be reached is said with the reason", function()
    local pool, url = new_pool(), nowhere()
    pool:add_client(url)
    local ok, err = pool:init()
    assert.is_nil(ok)
    assert.is_truthy(err.message:find(url, 1, true))
    assert.matches("ould.* connect", err.message)
  end)

  it("of that name is said", function()
    local pool = new_pool()
    pool:add_client "http://no-such-host.invalid:8188"
    local ok, err = pool:init()
    assert.is_nil(ok)
    assert.matches("no%-such%-host", err.message)
  end)
end)

-- What answers is no ComfyUI server: mode -> what the client's problem says.
local not_comfy = {
  html = "HTML page", redirect = "redirects elsewhere %(status 302%)", loop = "redirects elsewhere", ["401"] = "status 401", ["403"] = "status 403",
  ["413"] = "status 413", ["500"] = "status 500", ["503"] = "status 503", cut = ".", cuthead = ".", nothttp = ".", nothing = ".",
  empty = "no ComfyUI server", json = "no ComfyUI server", object = "no ComfyUI server", deep = "no ComfyUI server", nul = "no ComfyUI server",
  manyheaders = ".", longline = ".", neglength = ".", ["ws-403"] = "WebSocket was refused with status 403", ["ws-200"] = "WebSocket",
  ["ws-accept"] = "."
}
local modes = {}
for mode in pairs(not_comfy) do modes[#modes + 1] = mode end
table.sort(modes)

describe("a server that is none", function()
  for _, mode in ipairs(modes) do
    it("(" .. mode .. ") is offline with a clear problem, and the good one does the work", function()
      if not python then return pending "python3 is missing" end
      local pool = new_pool()
      local c = pool:add_client(rogue(mode), { priority = 1 })
      local ok, err = pool:init()
      assert.is_nil(ok)
      assert.equal("no_clients", err.kind)
      assert.is_false(c.online)
      assert.matches(not_comfy[mode], c.problem)
      assert.is_truthy(err.message:find(c.url, 1, true))
      local good = pool:add_client(sim().url)
      local r = pool:submit(picture()):wait()
      assert.equal("completed", r.status)
      assert.equal(good.name, r.client)
    end)
  end

  it("and never answers is given up at connect_timeout_ms", function()
    local s = sim()
    s:stall(3600000)
    local pool = new_pool { connect_timeout_ms = 50 }
    local c = pool:add_client(s.url)
    assert.is_nil((pool:init()))
    assert.is_string(c.problem)
  end)
end)

-- It is a ComfyUI server until a prompt is posted: mode -> the job's kind of failure when there is no other client.
local bad_post = {
  html = "server", redirect = "server", loop = "server", ["400"] = "server", ["401"] = "server", ["403"] = "server", ["404"] = "server",
  ["413"] = "client_incompatible", ["500"] = "server", ["503"] = "server", empty = "server", json = "server", object = "server", deep = "server"
}
local unanswered = { "cut", "cuthead", "nothttp", "nothing", "neglength", "longline" }
local posts = {}
for mode in pairs(bad_post) do posts[#posts + 1] = mode end
table.sort(posts)

describe("a server that answers POST /prompt badly", function()
  for _, mode in ipairs(posts) do
    it("(" .. mode .. ") fails the job with a reason", function()
      if not python then return pending "python3 is missing" end
      local pool = new_pool { max_attempts = 1 }
      pool:add_client(rogue("prompt-" .. mode))
      assert(pool:init())
      local r = pool:submit(picture()):wait()
      assert.equal("failed", r.status)
      assert.equal(bad_post[mode], r.error.kind)
      assert.matches(mode:match "^%d+$" and "status " .. mode or ".", r.error.message)
    end)
  end

  local all = { table.unpack(posts) }
  for _, mode in ipairs(unanswered) do all[#all + 1] = mode end
  for _, mode in ipairs(all) do
    it("(" .. mode .. ") loses the job to a good one", function()
      if not python then return pending "python3 is missing" end
      local pool = new_pool { settle_ms = 20, poll_ms = 20 }
      pool:add_client(rogue("prompt-" .. mode), { priority = 1 })
      local good = pool:add_client(sim().url)
      assert(pool:init())
      till("both are online", function() return pool:stats().online == 2 end)
      local r = pool:submit(picture()):wait()
      assert.equal("completed", r.status)
      assert.equal(good.name, r.client)
    end)
  end

  it("by forgetting what it took loses the job to a good one", function()
    if not python then return pending "python3 is missing" end
    local pool = new_pool { settle_ms = 20, poll_ms = 20 }
    pool:add_client(rogue "prompt-forget", { priority = 1 })
    pool:add_client(sim().url)
    assert(pool:init())
    till("both are online", function() return pool:stats().online == 2 end)
    assert.equal("completed", pool:submit(picture()):wait().status)
  end)
end)

-- Garbage in its socket. counted: the frames are malformed in themselves.
local frames = {
  short = true, length = true, kind = false, utf8 = false, unknown = false, nojson = true, types = true, deep = true, huge = false, endless = false,
  absurd = false, negative = false, opcode = false, reserved = false, masked = false, control = false, orphan = false, close = false, pings = false,
  raw = false, flood = false, ours = false
}
local kinds = {}
for kind in pairs(frames) do kinds[#kinds + 1] = kind end
table.sort(kinds)

describe("a server that sends garbage", function()
  for _, kind in ipairs(kinds) do
    it("(" .. kind .. ") disturbs nobody else", function()
      if not python then return pending "python3 is missing" end
      local pool = new_pool()
      local good = pool:add_client(sim().url)
      pool:add_client(rogue("frames-" .. kind), { priority = 1 })
      assert(pool:init())
      for i = 1, 5 do pool:submit(picture():input("3", "seed", i)) end
      for r in pool:results() do
        assert.equal("completed", r.status)
        assert.equal(good.name, r.client)
      end
      if frames[kind] then till("it is counted", function() return pool:stats().malformed > 0 end) end
    end)
  end

  it("of more than max_message bytes loses its connection", function()
    if not python then return pending "python3 is missing" end
    local pool = new_pool()
    local c = pool:add_client(rogue "frames-endless", { max_message = 100000 })
    pool:init()
    till("it is cut off", function() return c.problem and c.problem:find "100000" end)
  end)
end)

describe("a server whose /queue", function()
  for _, mode in ipairs { "html", "500", "cut", "json", "deep", "nothing" } do
    it("is answered badly (" .. mode .. ") does not hold a job for ever", function()
      if not python then return pending "python3 is missing" end
      local pool = new_pool { max_attempts = 1, settle_ms = 20, poll_ms = 20 }
      pool:add_client(rogue("queue-" .. mode), { priority = 1 })
      pool:add_client(sim().url)
      assert(pool:init())
      till("both are online", function() return pool:stats().online == 2 end)
      local job = pool:submit(picture(), { total_ms = 2000 })
      assert.is_true(job:wait().status ~= nil)
      assert.equal("completed", pool:submit(picture(), { max_attempts = 3 }):wait().status)
    end)
  end
end)

describe("option errors of pool", function()
  local function raises(options, words) assert.error_matches(function() moonpool.pool(options) end, words) end
  it("name an unknown option and the nearest", function()
    raises({ profilng = true }, "pool: unknown option 'profilng' %(did you mean 'profiling'%?%)")
    raises({ max_attemps = 3 }, "did you mean 'max_attempts'")
    raises({ connect_timeout = 3 }, "did you mean 'connect_timeout_ms'")
  end)
  it("do not guess when nothing is near", function()
    raises({ zzzzzzzzzz = 1 }, "pool: unknown option 'zzzzzzzzzz'$")
  end)
  it("name what is expected", function()
    raises({ profiling = "yes" }, "pool: option 'profiling': true or false expected, got string")
    raises({ max_attempts = 0 }, "pool: option 'max_attempts': a number from 1.* to 1000.* expected, got 0")
    raises({ max_attempts = 1.5 }, "option 'max_attempts': a whole number expected")
    raises({ no_client_ms = "60s" }, "option 'no_client_ms': milliseconds expected, got string")
    raises({ no_client_ms = -1 }, "option 'no_client_ms': a number from 0")
    raises({ no_client_ms = 0 / 0 }, "option 'no_client_ms'")
    raises({ log_level = "loud" }, "option 'log_level': debug, info, warn, error or silent expected, got 'loud'")
    raises({ log_level = 5 }, "option 'log_level': a string expected")
    raises({ max_queued = 0 }, "option 'max_queued'")
    raises({ true }, "options have names")
    raises("fast", "pool: a table of options expected, got string")
  end)
end)

describe("option errors of add_client", function()
  local function raises(options, words)
    local pool = new_pool()
    assert.error_matches(function() pool:add_client("http://127.0.0.1:1", options) end, words)
    assert.same({}, pool:clients())
  end
  it("name an unknown option and the nearest", function()
    raises({ slot = 2 }, "add_client: unknown option 'slot' %(did you mean 'slots'%?%)")
    raises({ header = {} }, "did you mean 'headers'")
  end)
  it("name what is expected", function()
    raises({ slots = 0 }, "add_client: option 'slots': a number from 1")
    raises({ slots = 65 }, "option 'slots'")
    raises({ priority = "high" }, "option 'priority': a number expected, got string")
    raises({ name = 5 }, "option 'name': a string expected")
    raises({ tags = "24g" }, "option 'tags': a list expected, got string")
    raises({ tags = { 5 } }, "option 'tags': item 1: a string expected")
    raises({ affinity = { {} } }, "option 'affinity': item 1: a workflow or structural hash expected")
    raises({ headers = { A = "b\r\nC: d" } }, "option 'headers': a header may not contain line ends")
    raises({ headers = { A = {} } }, "option 'headers'")
    raises({ headers = { ["A\r\nB"] = "c" } }, "option 'headers'")
    raises({ insecure = 1 }, "option 'insecure': true or false expected")
  end)
  it("want an address", function()
    local pool = new_pool()
    assert.has_error(function() pool:add_client() end)
    assert.has_error(function() pool:add_client {} end)
    for _, url in ipairs { "", "gpu1", "gpu1:8188", "ftp://gpu1", "http://", "http:///x", "http://a b", "ws://gpu1" } do
      local c, err = pool:add_client(url)
      assert.is_nil(c)
      assert.equal("invalid", err.kind)
      assert.matches("no server address", err.message)
    end
  end)
  it("say that a port is none", function()
    local pool = new_pool()
    for _, url in ipairs { "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://127.0.0.1:-1" } do
      local c, err = pool:add_client(url)
      if c then
        local ok
        ok, err = pool:init()
        assert.is_nil(ok)
        pool:remove_client(c)
      end
      assert.is_truthy(err.message:find(url, 1, true))
    end
  end)
end)

describe("option errors of submit", function()
  local function raises(options, words)
    local pool = new_pool()
    assert.error_matches(function() pool:submit(picture(), options) end, words)
    assert.equal(0, pool:stats().unfinished)
  end
  it("name an unknown option and the nearest", function()
    raises({ prio = 1 }, "submit: unknown option 'prio'")
    raises({ priorty = 1 }, "submit: unknown option 'priorty' %(did you mean 'priority'%?%)")
    raises({ meta_data = {} }, "did you mean 'metadata'")
  end)
  it("name what is expected", function()
    raises({ priority = "high" }, "submit: option 'priority': a number expected, got string")
    raises({ priority = 0 / 0 }, "option 'priority'")
    raises({ max_attempts = 0 }, "option 'max_attempts'")
    raises({ total_ms = -1 }, "option 'total_ms'")
    raises({ partial_outputs = 1 }, "option 'partial_outputs': true or false expected")
    raises({ metadata = "x" }, "option 'metadata': a table expected, got string")
    raises({ metadata = { [{}] = 1 } }, ".")
    raises({ extra_data = { 1, 2 } }, "option 'extra_data'")
    raises(5, "submit: a table of options expected, got number")
  end)
  it("want a workflow", function()
    local pool = new_pool()
    for _, w in ipairs { false, 5, "x", {}, pool } do assert.has_error(function() pool:submit(w) end) end
    assert.has_error(function() pool:submit() end)
  end)
  it("of a table that contains itself are found", function()
    local m = {}
    m.m = m
    raises({ metadata = m }, ".")
  end)
end)

describe("methods called on something else", function()
  it("raise and do not crash", function()
    local pool = new_pool()
    local job = pool:submit(picture())
    for _, object in ipairs { 5, "x", {}, io.stdout, job } do
      assert.has_error(function() pool.submit(object, picture()) end)
      assert.has_error(function() pool.stats(object) end)
    end
    for _, object in ipairs { 5, "x", {}, io.stdout, pool } do assert.has_error(function() job.cancel(object) end) end
    assert.is_nil(job.no_such_field)
    assert.has_error(function() pool:no_such_method() end)
  end)
end)

describe("SIGINT during a batch", function()
  -- Runs a script that submits five endless jobs to s in a process of its own, until the server has `there` prompts, and
  -- sends it a signal, and once more when it has said `twice`: its output and exit code.
  local function interrupted(s, signal, body, there, flag, steps, twice)
    local folder = H.folder "sigint"
    local said = folder .. "/out"
    H.write(folder .. "/batch.lua", ([[
      local moonpool = require "moonpool"
      local pool = moonpool.pool {}
      pool:add_client("%s")
      assert(pool:init())
      local wf = moonpool.workflow.from %q
      wf:input("3", "steps", %d)
      for i = 1, 5 do pool:submit(wf:clone():input("3", "seed", i)) end
      %s
    ]]):format(s.url, H.text_to_image, steps or 10000, body or "for r in pool:results() do print(r.status) end"))
    os.execute(("( sh -c 'echo $$ >%s/pid; exec %s %s %s/batch.lua' >%s 2>&1; echo $? >%s.tmp; mv %s.tmp %s/code ) &"):format(folder, H.moonpool, flag or "", folder, said, said, said, folder))
    till("the batch is under way", function() return s:record().prompts == 1 and s:record().waiting == (there or 2) end)
    keep(folder, function() os.execute(("[ -e %s/code ] || kill -KILL $(cat %s/pid)"):format(folder, folder)) end)
    os.execute(("kill -%s $(cat %s/pid)"):format(signal, folder))
    if twice then
      till("it says what it does", function() return H.read(said):find(twice, 1, true) end)
      os.execute(("kill -%s $(cat %s/pid)"):format(signal, folder))
    end
    till("it has ended", function()
      local f = io.open(folder .. "/code")
      return f and f:close()
    end)
    return H.read(said), tonumber(H.read(folder .. "/code"))
  end

  it("interrupts and deletes what is ours, prints a summary and exits with 130", function()
    local s = sim { speed = 1 }
    local text, code = interrupted(s, "INT")
    assert.equal(130, code)
    assert.matches("interrupted: 0 completed, 0 failed, 5 canceled", text)
    assert.equal(0, s:record().waiting)
    assert.equal(1, s:record().interrupted)
  end)

  it("counts what was done before", function()
    local s = sim { speed = 1 }
    local text, code = interrupted(s, "INT", "pool:submit(wf):cancel() for r in pool:results() do print(r.status) end")
    assert.equal(130, code)
    assert.matches("6 canceled", text)
  end)

  it("is the same while tasks do the waiting", function()
    local s = sim { speed = 1 }
    local text, code = interrupted(s, "INT", "moonpool.spawn(function() for r in pool:results() do print(r.status) end end)")
    assert.equal(130, code)
    assert.matches("interrupted: 0 completed", text)
    assert.equal(0, s:record().waiting)
  end)

  it("leaves somebody else's prompts alone", function()
    local s = sim { speed = 1 }
    local pool = new_pool()
    pool:add_client(s.url)
    assert(pool:init())
    local theirs = pool:submit(picture():input("3", "steps", 10000))
    till("theirs runs", function() return theirs.status == "running" end)
    local _, code = interrupted(s, "INT", nil, 3)
    assert.equal(130, code)
    assert.equal("running", theirs.status)
    assert.equal(1, s:record().waiting)
    assert.equal(0, s:record().interrupted)
    theirs:cancel()
  end)

  it("with --drain finishes what was submitted", function()
    local s = sim { speed = 4 }
    local text, code = interrupted(s, "TERM", nil, nil, "--drain", 40)
    assert.equal(130, code)
    assert.matches("interrupted: finishing %d jobs", text)
    assert.matches("interrupted: 5 completed, 0 failed, 0 canceled", text)
    assert.same({ 5, 0, 0 }, { s:record().prompts, s:record().interrupted, s:record().waiting })
  end)

  for signal, due in K.sorted { INT = 130, TERM = 143 } do
    it("is left at once when it is told twice: SIG" .. signal, function()
      local s = sim { speed = 1 }
      local text, code = interrupted(s, signal, nil, nil, "--drain", nil, "once more to leave at once")   -- what it would finish has no end
      assert.equal(due, code)
      assert.is_nil(text:find("completed", 1, true), text)
      assert.same({ 0, 2 }, { s:record().interrupted, s:record().waiting })
    end)
  end

  it("is the same for SIGTERM", function()
    local s = sim { speed = 1 }
    local text, code = interrupted(s, "TERM")
    assert.is_true(code == 130 or code == 143)
    assert.matches("interrupted: ", text)
    assert.equal(0, s:record().waiting)
  end)
end)

describe("a method called with a dot", function()
  it("says so, whatever it is called with", function()
    local pool, server = K.pool(), K.sim()
    local wf, task, channel = K.picture(), moonpool.spawn(function() end), moonpool.task.channel()
    local calls = {
      ["pool:submit"] = function() pool.submit(wf) end, ["pool:add_client"] = function() pool.add_client(server.url) end, ["pool:init"] = function() pool.init() end,
      ["pool:results"] = function() pool.results() end, ["workflow:input"] = function() wf.input("3", "seed", 1) end, ["workflow:clone"] = function() wf.clone() end,
      ["sim:stall"] = function() server.stall(1) end, ["task:wait"] = function() task.wait() end, ["channel:get"] = function() channel.get() end,
    }
    for name, fn in pairs(calls) do
      local ok, words = pcall(fn)
      assert.is_false(ok)
      assert.matches(name .. ": called without its %a+; write " .. name .. "%(...%), with a colon", words)
      assert.matches("bad_input_spec.lua:%d+:", words)
    end
  end)
end)

describe("what is not there", function()
  it("is refused where it is named", function()
    local pool, wf = K.pool(), K.picture()
    assert.error_matches(function() pool:submit(wf, { include_outputs = { "99" } }) end, "item 1: the workflow has no node \"99\"", 1, true)
    assert.error_matches(function() wf:name_input("x", "99.text") end, "no node that \"99.text\" begins with", 1, true)
    for _, url in ipairs { "http://x:99999", "http://x:0", "http://x:1x", "http://[::1]:99999" } do
      local c, err = pool:add_client(url)
      assert.is_nil(c)
      assert.equal("invalid", err.kind)
    end
    assert(pool:add_client "http://[::1]:8188")
  end)
end)

describe("an argument of the wrong kind", function()
  after_each(K.clean)

  local function refused(words, fn) assert.error_matches(fn, words, 1, true) end

  it("of shutdown is named before anything is canceled", function()
    local pool = K.pool_of { K.wedged() }
    local job = pool:submit(K.picture())
    refused("shutdown: option 'timeout_ms': milliseconds from 0 expected, got 2s", function() pool:shutdown { timeout_ms = "2s" } end)
    refused("shutdown: option 'timeout_ms': milliseconds from 0 expected, got ", function() pool:shutdown { timeout_ms = 0 / 0 } end)
    refused("shutdown: option 'drain': true or false expected, got string", function() pool:shutdown { drain = "x" } end)
    assert.is_false(job.ended)
    assert(pool:submit(K.picture()))
  end)

  it("finds no job, client or server that it does not name", function()
    local pool, client = K.pool_of { K.wedged() }
    local job = pool:submit(K.picture())
    assert.equal(job, pool:job(job.id))
    for _, id in ipairs { job.id .. " garbage", " " .. job.id, "0x" .. job.id, "-" .. job.id, "", "+", 1.5 } do assert.is_nil(pool:job(id)) end
    assert.is_false(pool:remove_client(nil))
    assert.is_false(pool:remove_client "nobody")
    refused("pool:remove_client: a client, its URL or its name expected, got number", function() pool:remove_client(5) end)
    refused("client:get: a path begins with a slash, got '@127.0.0.1:9/x'", function() client:get "@127.0.0.1:9/x" end)
    refused("client:post: a path begins with a slash, got 'x'", function() client:post("x", "") end)
    refused("client:interrupt: the id of a prompt expected, got nil", function() client:interrupt(job.nothing) end)
    refused("client:interrupt: the id of a prompt expected, got an empty string", function() client:interrupt "" end)
  end)

  it("of a result's fetch and save is named as theirs", function()
    local r = K.completed(K.pool_of({ K.sim() }):submit(K.picture()))
    for _, bad in ipairs { 1e12, 1 / 0, 0 / 0, 0, "1" } do
      refused("result:fetch: option 'max_bytes': a number from 1 to 4000000000 expected", function() r:fetch(r.files[1], { max_bytes = bad }) end)
    end
    refused("result:save: option 'pattern': there is no {jobs}; {job} {node}", function() r:save("x", { pattern = "{jobs}_{filename}" }) end)
  end)

  it("of files that travel with a job is named", function()
    local wf = K.picture()
    refused("attach_folder_files: a list of files expected, found the key ", function() wf:attach_folder_files("s", { name = "a", data = "b" }) end)
    refused("attach_folder_files: item 1: unknown option 'bytes'", function() wf:attach_folder_files("s", { { name = "a", bytes = "b" } }) end)
    refused("without zero bytes", function() wf:attach_image("4", "ckpt_name", "bytes", "a\0b.png") end)
  end)

  it("of add_client and submit is named", function()
    local pool = K.pool()
    refused("add_client: option 'client_id': a string of one byte or more expected", function() pool:add_client("http://127.0.0.1:9", { client_id = "" }) end)
    refused("submit: option 'job_id': a string without zero bytes expected", function() pool:submit(K.picture(), { job_id = "a\0b" }) end)
    for _, bad in ipairs { 0 / 0, 1 / 0, -1e10 } do
      refused("submit: option 'priority_overrides': gpu: a number from -1e9 to 1e9 expected", function() pool:submit(K.picture(), { priority_overrides = { gpu = bad } }) end)
    end
    refused("option 'monitoring_interval_ms'", function() moonpool.pool { monitoring_interval_ms = 0 / 0 } end)
  end)

  it("of a request's body may hold any bytes, and must be a string", function()
    refused("http.request: option 'body': a string expected, got number", function() moonpool.http.request { url = "http://127.0.0.1:9", body = 5 } end)
    local s = K.sim()
    local reply = assert(moonpool.http.request { method = "POST", url = s.url .. "/prompt", body = "a\0b" })
    assert.not_equal(200, reply.status)
  end)
end)

describe("a strict input", function()
  it("must be one that the node has", function()
    local wf = K.picture()
    assert.error_matches(function() wf:input("6", "tex", "x", { strict = true }) end, 'node "6" has no input "tex"; it has "text", "clip"', 1, true)
    assert.error_matches(function() wf:input("6", "text", "x", { strikt = true }) end, "workflow:input: unknown option 'strikt' (did you mean 'strict'?)", 1, true)
    assert.equal("x", wf:input("6", "text", "x", { strict = true }):input("6", "text"))
    assert.equal("y", wf:input("6", "more", "y"):input("6", "more"))        -- and is added otherwise
  end)
end)

describe("a server that talks too much", function()
  after_each(K.clean)
  local scripted = K.scripted(it, pending)

  scripted("has outputs of ten thousand nodes kept, and is told of once", function()
    local s = K.server { hold = "running" }
    local lines = {}
    local pool = K.pool_of { s }
    pool:on("warn", function(e) lines[#lines + 1] = e.message end)
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    local said = {}
    for i = 1, 10100 do
      said[i] = ('{"type": "executed", "data": {"node": "n%d", "display_node": "n%d", "output": {"text": ["x"]}, "prompt_id": "%s"}}'):format(i, i, job.prompt_id)
    end
    s:say(said)
    s:go()
    local r, n = K.completed(job), 0
    for _ in pairs(r.raw_outputs) do n = n + 1 end
    assert.equal(10000, n)
    local told = 0
    for _, line in ipairs(lines) do told = told + (line:find("more outputs of one prompt than are kept", 1, true) and 1 or 0) end
    assert.equal(1, told)
  end)
end)
