-- Tasks and what waits in them: sleeping, HTTP, WebSocket, a client's own calls; and where waiting is refused.
local H = require "helper"
local moonpool = require "moonpool"

local opened = {}

local function keep(object, close)
  opened[#opened + 1] = function() close(object) end
  return object
end

local function sim(options)
  local o = { speed = 50 }
  for k, v in pairs(options or {}) do o[k] = v end
  return keep(assert(moonpool.sim(o)), function(s) s:close() end)
end

local function client_of(s, options)
  local pool = keep(moonpool.pool { log_level = "silent", retry_delay_ms = 1 }, function(p) p:shutdown { timeout_ms = 0 } end)
  local c = assert(pool:add_client(s.url, options))
  assert(pool:init())
  return c, pool
end

local function nowhere()
  local s = assert(moonpool.sim {})
  local url = s.url
  s:close()
  for _ = 1, 5 do moonpool.step(0) end
  return url
end

local function picture() return assert(moonpool.workflow.from(H.text_to_image)) end

after_each(function()
  for i = #opened, 1, -1 do pcall(opened[i]) end
  opened = {}
end)

describe("spawn", function()
  it("runs a function later, with its arguments", function()
    local seen
    local t = moonpool.spawn(function(...) seen = { ... } end, 1, nil, "three")
    assert.is_nil(seen)
    t:wait()
    assert.same({ 1, nil, "three" }, seen)
  end)

  it("gives all results to whoever waits", function()
    local t = moonpool.spawn(function() return 1, nil, 3 end)
    assert.equal(3, select("#", t:wait()))
    assert.same({ 1, nil, 3 }, { t:wait() })
  end)

  it("wants a function", function()
    assert.error_matches(function() moonpool.spawn(5) end, "a function expected, got number")
    assert.error_matches(function() moonpool.spawn() end, "a function expected, got nil")
  end)

  it("from inside a task works", function()
    local t = moonpool.spawn(function()
      return moonpool.spawn(function()
        moonpool.sleep(1)
        return "inner"
      end):wait()
    end)
    assert.equal("inner", t:wait())
  end)

  it("starts tasks in order", function()
    local order, tasks = {}, {}
    for i = 1, 5 do tasks[i] = moonpool.spawn(function() order[#order + 1] = i end) end
    moonpool.task.all(tasks)
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)

  it("of a thousand tasks that sleep is no trouble", function()
    local tasks, n = {}, 0
    for i = 1, 1000 do
      tasks[i] = moonpool.spawn(function()
        moonpool.sleep(i % 7)
        n = n + 1
      end)
    end
    moonpool.task.all(tasks)
    assert.equal(1000, n)
    assert.equal(0, moonpool.task.count())
  end)
end)

describe("sleep", function()
  it("lets other tasks run", function()
    local order = {}
    local a = moonpool.spawn(function()
      order[#order + 1] = "a"
      moonpool.sleep(0)
      moonpool.sleep(1)
      order[#order + 1] = "a again"
    end)
    local b = moonpool.spawn(function() order[#order + 1] = "b" end)
    a:wait()
    b:wait()
    assert.same({ "a", "b", "a again" }, order)
  end)

  it("ends in order of length", function()
    local order, tasks = {}, {}
    for i, ms in ipairs { 60, 1, 30 } do
      tasks[i] = moonpool.spawn(function()
        moonpool.sleep(ms)
        order[#order + 1] = ms
      end)
    end
    moonpool.task.all(tasks)
    assert.same({ 1, 30, 60 }, order)
  end)

  it("lasts no less than it should", function()
    local began = moonpool.core.now()
    moonpool.sleep(20)
    assert.is_true(moonpool.core.now() - began >= 19)
  end)

  it("takes negative times as none, and wants a number", function()
    moonpool.sleep(-5)
    assert.error_matches(function() moonpool.sleep "1s" end, "milliseconds expected, got string")
  end)
end)

describe("a task's wait", function()
  it("raises the task's error with the task's own traceback", function()
    local function culprit() error "on purpose" end
    local t = moonpool.spawn(function()
      moonpool.sleep(1)
      culprit()
    end)
    local ok, words = pcall(t.wait, t)
    assert.is_false(ok)
    assert.matches("on purpose", words)
    assert.matches("stack traceback", words)
    assert.matches("culprit", words)
  end)

  it("raises error objects as they are", function()
    local object = setmetatable({ kind = "mine" }, { __tostring = function() return "mine" end })
    local t = moonpool.spawn(function() error(object) end)
    local ok, e = pcall(t.wait, t)
    assert.is_false(ok)
    assert.equal(object, e)
  end)

  it("raises also when the error is nil", function()
    local t = moonpool.spawn(function() error() end)
    local ok, e = pcall(t.wait, t)
    assert.is_false(ok)
    assert.is_not_truthy(type(e) == "string" and e:find "unpack")
  end)

  it("raises each time it is asked", function()
    local t = moonpool.spawn(function() error({}) end)
    assert.has_error(function() t:wait() end)
    assert.has_error(function() t:wait() end)
  end)

  it("that runs out gives nil and an error, and the task goes on", function()
    local go = false
    local t = moonpool.spawn(function()
      while not go do moonpool.sleep(1) end
      return "done"
    end)
    local r, err = t:wait(5)
    assert.is_nil(r)
    assert.equal("timeout", err.kind)
    go = true
    assert.equal("done", t:wait())
  end)

  it("with a time returns what came in time", function()
    local t = moonpool.spawn(function() return 7 end)
    assert.equal(7, t:wait(3600000))
    assert.equal(7, t:wait(0))
  end)

  it("wakes several waiters", function()
    local t = moonpool.spawn(function()
      moonpool.sleep(5)
      return "x"
    end)
    local waiters = {}
    for i = 1, 3 do waiters[i] = moonpool.spawn(function() return t:wait() end) end
    assert.same({ "x", "x", "x" }, moonpool.task.all(waiters))
  end)

  it("goes through pcall and iterators", function()
    local t = moonpool.spawn(function()
      local sum = 0
      local function each(n) return function(_, i) moonpool.sleep(1); if i < n then return i + 1 end end, nil, 0 end
      local ok = pcall(function() for i in each(3) do sum = sum + i end end)
      return ok, sum
    end)
    assert.same({ true, 6 }, { t:wait() })
  end)

  it("closes what a task has open when it raises", function()
    local closed = false
    local t = moonpool.spawn(function()
      local x <close> = setmetatable({}, { __close = function() closed = true end })
      moonpool.sleep(1)
      error({ x })
    end)
    pcall(t.wait, t)
    collectgarbage()
    assert.is_true(closed)
  end)
end)

describe("a pool that a task has open", function()
  it("is closed when the task ends, and when it raises", function()
    for _, ends in ipairs { function() end, function() error({}) end } do
      local mine
      local t = moonpool.spawn(function()
        local pool <close> = moonpool.pool { log_level = "silent" }
        mine = pool
        pool:submit(picture())
        moonpool.sleep(1)
        ends()
      end)
      pcall(t.wait, t)
      assert.error_matches(function() mine:stats() end, "closed")
    end
  end)
end)

describe("task.all", function()
  it("gives the first result of each", function()
    local tasks = {}
    for i = 1, 3 do tasks[i] = moonpool.spawn(function() moonpool.sleep(4 - i); return i * i, "more" end) end
    assert.same({ 1, 4, 9 }, moonpool.task.all(tasks))
  end)
  it("raises the first error", function()
    assert.error_matches(function()
      moonpool.task.all { moonpool.spawn(function() end), moonpool.spawn(function() error "this one" end) }
    end, "this one")
  end)
  it("of none is none", function() assert.same({}, moonpool.task.all {}) end)
end)

describe("a script's exit code", function()
  local function run(body)
    local path = H.folder "task_exit" .. "/script.lua"
    H.write(path, 'local m = require "moonpool"\n' .. body)
    return H.run(H.moonpool .. " " .. path)
  end

  it("is 0 when a task's error was waited for, be it after the task's end", function()
    local text, code = run [[
      local slow = m.spawn(function() m.sleep(5) end)
      local failing = m.spawn(function() error "seen by us" end)
      print(pcall(m.task.all, { slow, failing }))
    ]]
    assert.equal(0, code)
    assert.is_nil(text:find("error: task", 1, true))
  end)

  it("is 1, with a traceback, when nobody waited for a task's error", function()
    local text, code = run [[m.spawn(function() m.sleep(1); error "seen by nobody" end)]]
    assert.equal(1, code)
    assert.matches("seen by nobody", text)
    assert.matches("stack traceback", text)
  end)

  it("is 1, with a traceback, when the script raises", function()
    local text, code = run [[m.sleep(1); error "in main"]]
    assert.equal(1, code)
    assert.matches("in main", text)
    assert.matches("stack traceback", text)
  end)

  it("comes after all tasks", function()
    local text, code = run [[m.spawn(function() m.sleep(20); print "last words" end)]]
    assert.equal(0, code)
    assert.equal("last words\n", text)
  end)
end)

describe("waiting is refused", function()
  it("in a coroutine of one's own", function()
    local ok, words = coroutine.wrap(function() return pcall(moonpool.sleep, 1) end)()
    assert.is_false(ok)
    assert.matches("use moonpool.spawn", words)
  end)

  it("in a coroutine of one's own inside a task", function()
    local t = moonpool.spawn(function() return coroutine.wrap(function() return pcall(moonpool.sleep, 1) end)() end)
    local ok, words = t:wait()
    assert.is_false(ok)
    assert.matches("use moonpool.spawn", words)
  end)

  it("in a callback, even in a coroutine there", function()
    local seen = {}
    moonpool.core.timer(0, function()
      seen[1] = { pcall(moonpool.sleep, 1) }
      seen[2] = { coroutine.wrap(function() return pcall(moonpool.sleep, 1) end)() }
      seen[3] = { pcall(function() return moonpool.http.request { url = "http://127.0.0.1:1" } end) }
    end)
    moonpool.sleep(5)
    for i = 1, 3 do
      assert.is_false(seen[i][1])
      assert.matches("use moonpool.spawn", seen[i][2])
    end
  end)

  it("and names the line of the caller", function()
    local ok, words = coroutine.wrap(function() return pcall(function() moonpool.sleep(1) end) end)()
    assert.is_false(ok)
    assert.matches("task_spec.lua:%d+:", words)
  end)

  it("but what a task waits for may come while main waits for something else", function()
    local t = moonpool.spawn(function() moonpool.sleep(1); return 1 end)
    moonpool.sleep(10)
    assert.is_true(t.done)
    assert.equal(1, t:wait())
  end)
end)

describe("moonpool.step", function()
  it("turns the loop once", function()
    local t = moonpool.spawn(function() return true end)
    assert.is_false(t.done)
    moonpool.step()
    if not t.done then moonpool.step(100) end
    assert.is_true(t.done)
  end)

  it("raises inside a callback", function()
    local ok, words
    moonpool.core.timer(0, function() ok, words = pcall(moonpool.step, 1) end)
    moonpool.sleep(5)
    assert.is_false(ok)
    assert.matches("step inside a step", words)
  end)

  it("raises inside a task, which runs inside a step", function()
    local t = moonpool.spawn(function() return pcall(moonpool.step, 1) end)
    local ok, words = t:wait()
    assert.is_false(ok)
    assert.matches("step inside a step", words)
  end)

  it("is what a host calls: a job completes by steps alone", function()
    local _, pool = client_of(sim())
    local job = pool:submit(picture())
    local bound = os.time() + 60
    while not job.ended and os.time() < bound do moonpool.step(10) end
    assert.equal("completed", job:result().status)
  end)
end)

describe("http.request", function()
  it("gets a document", function()
    local r = assert(moonpool.http.request { url = sim().url .. "/system_stats" })
    assert.equal(200, r.status)
    assert.matches("^application/json", r.content_type)
    assert.equal(r.content_type, r.headers["content-type"])
    assert.equal("0.18.1", moonpool.json.decode(r.body).system.comfyui_version)
  end)

  it("gives any status as a reply", function()
    local r = assert(moonpool.http.request { url = sim().url .. "/nowhere/at/all" })
    assert.equal(404, r.status)
  end)

  it("posts a body", function()
    local r = assert(moonpool.http.request { url = sim().url .. "/prompt", method = "POST", body = "{}" })
    assert.equal(400, r.status)
    assert.matches("no_prompt", r.body)
  end)

  it("posts parts", function()
    local r = assert(moonpool.http.request { url = sim().url .. "/upload/image", method = "POST", parts = { { name = "image", filename = "a.png", data = "bytes\0and more" } } })
    assert.equal(200, r.status)
    assert.equal("a.png", moonpool.json.decode(r.body).name)
  end)

  it("says that a connection is refused", function()
    local r, err = moonpool.http.request { url = nowhere() }
    assert.is_nil(r)
    assert.equal("connection", err.kind)
    assert.is_true(#err.message > 0)
  end)

  it("says that an address is none", function()
    for _, url in ipairs { "gpu1:8188", "ftp://gpu1/x", "file:///etc/passwd", "" } do
      local r, err = moonpool.http.request { url = url }
      assert.is_nil(r)
      assert.equal("invalid", err.kind)
      assert.is_truthy(err.message:find(url, 1, true))
    end
  end)

  it("says that a name is unknown", function()
    local r, err = moonpool.http.request { url = "http://no-such-host.invalid/" }
    assert.is_nil(r)
    assert.equal("connection", err.kind)
  end)

  it("gives up at timeout_ms", function()
    local s = sim()
    s:stall(3600000)
    local r, err = moonpool.http.request { url = s.url .. "/queue", timeout_ms = 20 }
    assert.is_nil(r)
    assert.equal("timeout", err.kind)
  end)

  it("gives up at max_body", function()
    local r, err = moonpool.http.request { url = sim().url .. "/object_info", max_body = 100 }
    assert.is_nil(r)
    assert.equal("limit", err.kind)
  end)

  it("names wrong options", function()
    assert.error_matches(function() moonpool.http.request { adress = "x" } end, "unknown option 'adress'")
    assert.error_matches(function() moonpool.http.request { ulr = "x" } end, "did you mean 'url'")
    assert.error_matches(function() moonpool.http.request {} end, "option 'url' is missing")
    assert.error_matches(function() moonpool.http.request { url = 5 } end, "option 'url': a string expected, got number")
    assert.error_matches(function() moonpool.http.request { url = "http://x", headers = { ["X-A"] = "a\r\nB: c" } } end, "line ends")
  end)

  it("of many at once all end", function()
    local url, tasks = sim().url .. "/queue", {}
    for i = 1, 40 do tasks[i] = moonpool.spawn(function() return moonpool.http.request { url = url }.status end) end
    for _, status in ipairs(moonpool.task.all(tasks)) do assert.equal(200, status) end
  end)

  it("works in a task and outside alike", function()
    local url = sim().url .. "/queue"
    local t = moonpool.spawn(function() return moonpool.http.request { url = url }.body end)
    assert.equal(moonpool.http.request { url = url }.body, t:wait())
  end)
end)

describe("ws.connect", function()
  local function ws_of(s) return s.url:gsub("^http", "ws") .. "/ws?clientId=me" end

  it("receives the server's status", function()
    local s <close> = assert(moonpool.ws.connect { url = ws_of(sim()) })
    local text, binary = s:receive(10000)
    assert.is_false(binary)
    local m = moonpool.json.decode(text)
    assert.equal("status", m.type)
    assert.equal("me", m.data.sid)
  end)

  it("sends and is answered", function()
    local s <close> = assert(moonpool.ws.connect { url = ws_of(sim()) })
    s:receive(10000)
    assert.is_true(s:send '{"type": "feature_flags", "data": {}}')
    assert.equal("feature_flags", moonpool.json.decode((s:receive(10000))).type)
  end)

  it("takes an http address too", function()
    local s <close> = assert(moonpool.ws.connect { url = sim().url .. "/ws" })
    assert.is_string((s:receive(10000)))
  end)

  it("gives all messages that came while nobody asked, in their order", function()
    local server = sim()
    server:wedge()
    local s <close> = assert(moonpool.ws.connect { url = ws_of(server) })
    local said, seen = 0, 0
    local function post(n)                       -- each is told as one more that waits
      for _ = 1, n do
        said = said + 1
        assert(moonpool.http.request { method = "POST", url = server.url .. "/prompt", body = '{"prompt":' .. H.text_to_image .. "}" })
      end
    end
    local function read(n)
      for _ = 1, n do
        assert.equal(seen, moonpool.json.decode((s:receive(10000))).data.status.exec_info.queue_remaining)
        seen = seen + 1
      end
    end
    for n = 1, 6 do                              -- read some, then more come
      post(n)
      read(n - 1)
    end
    read(said + 1 - seen)
  end)

  it("says that nothing came in time, and can be asked again", function()
    local s <close> = assert(moonpool.ws.connect { url = ws_of(sim()) })
    s:receive(10000)
    local m, err = s:receive(5)
    assert.is_nil(m)
    assert.equal("timeout", err.kind)
    s:send '{"type": "feature_flags", "data": {}}'
    assert.is_string((s:receive(10000)))
  end)

  it("tells of a lost connection", function()
    local server = sim()
    local s <close> = assert(moonpool.ws.connect { url = ws_of(server) })
    s:receive(10000)
    server:drop()
    local m, err = s:receive(10000)
    assert.is_nil(m)
    assert.equal("closed", err.kind)
    assert.equal(1006, err.code)
    assert.is_false(s:send "too late")
  end)

  it("can be closed, twice", function()
    local s = assert(moonpool.ws.connect { url = ws_of(sim()) })
    s:receive(10000)
    s:close(1000, "enough")
    s:close()
    local m, err = s:receive(10000)
    assert.is_nil(m)
    assert.equal("closed", err.kind)
  end)

  it("says that a connection is refused", function()
    local s, err = moonpool.ws.connect { url = nowhere() .. "/ws" }
    assert.is_nil(s)
    assert.equal("connection", err.kind)
    assert.is_true(#err.message > 0)
  end)

  it("says that the handshake is refused", function()
    local s, err = moonpool.ws.connect { url = sim().url .. "/queue" }
    assert.is_nil(s)
    assert.equal("connection", err.kind)
  end)

  it("says that an address is none, and names wrong options", function()
    local s, err = moonpool.ws.connect { url = "gpu1" }
    assert.is_nil(s)
    assert.equal("invalid", err.kind)
    assert.error_matches(function() moonpool.ws.connect {} end, "option 'url' is missing")
    assert.error_matches(function() moonpool.ws.connect { url = "ws://x", timeout = 1 } end, "did you mean 'timeout_ms'")
  end)

  it("ends for a message beyond max_message", function()
    local s = assert(moonpool.ws.connect { url = ws_of(sim()), max_message = 10 })
    local m, err = s:receive(10000)
    assert.is_nil(m)
    assert.equal("closed", err.kind)
  end)
end)

describe("a sim", function()
  it("can be closed twice", function()
    local s = sim()
    s:close()
    s:close()
  end)

  it("leaves its port to the next one", function()
    local s = sim()
    local port = s.port
    s:close()
    assert.equal(port, sim { port = port }.port)
  end)

  it("says that a port is taken", function()
    local s, err = moonpool.sim { port = sim().port }
    assert.is_nil(s)
    assert.equal("io", err.kind)
  end)
end)

describe("a client's calls", function()
  it("system_stats", function()
    local stats = assert(client_of(sim { name = "Test GPU" }):system_stats())
    assert.equal("0.18.1", stats.system.comfyui_version)
    assert.matches("Test GPU", stats.devices[1].name)
  end)

  it("object_info, of all and of one class", function()
    local c = client_of(sim())
    assert.is_table(assert(c:object_info()).KSampler)
    local one = assert(c:object_info "KSampler")
    assert.is_table(one.KSampler.input)
    assert.is_nil(one.SaveImage)
    assert.same({}, c:object_info "No/Such Class?")
  end)

  it("queue", function()
    local s = sim()
    s:wedge()
    local c, pool = client_of(s)
    assert.same({}, assert(c:queue()).queue_pending)
    local job = pool:submit(picture())
    while s:record().waiting == 0 do moonpool.step(10) end
    local q = assert(c:queue())
    assert.equal(job.prompt_id, (q.queue_running[1] or q.queue_pending[1])[2])
  end)

  it("history, of all and of one prompt", function()
    local c, pool = client_of(sim())
    local r = pool:submit(picture()):wait()
    assert.is_true(assert(c:history(r.prompt_id))[r.prompt_id].status.completed)
    assert.is_table(assert(c:history())[r.prompt_id])
    assert.same({}, c:history "nothing of that name")
  end)

  it("upload, and the name is the one to use", function()
    local c = client_of(sim())
    local png = "\137PNG\r\n\26\n and so on"
    local name, answer = c:upload { name = "photo.png", data = png }
    assert.equal("photo.png", name)
    assert.equal("input", answer.type)
    local back = assert(c:get "/view?filename=photo.png&type=input")
    assert.equal(png, back.body)
    assert.equal("photo.png", (c:upload { name = "photo.png", data = png }))
    assert.not_equal("photo.png", (c:upload { name = "photo.png", data = png .. "other" }))
    assert.equal("photo.png", (c:upload { name = "photo.png", data = png .. "other", overwrite = true }))
    assert.equal("sub/photo.png", (c:upload { name = "photo.png", data = png, subfolder = "sub" }))
  end)

  it("upload of a file, and of one that is not there", function()
    local path = H.folder "task_upload" .. "/from disk.png"
    H.write(path, "bytes")
    local c = client_of(sim())
    assert.equal("from disk.png", (c:upload { path = path }))
    local name, err = c:upload { path = path .. ".not" }
    assert.is_nil(name)
    assert.equal("io", err.kind)
  end)

  it("get and post", function()
    local c = client_of(sim())
    assert.equal(200, c:get "/queue".status)
    assert.equal(404, c:get "/nowhere".status)
    assert.equal(200, c:post("/queue", { clear = true }).status)
    assert.equal(400, c:post("/prompt", "{}").status)
  end)

  it("free", function()
    local c = client_of(sim())
    assert.is_true((c:free()))
    assert.is_true((c:free { unload_models = true }))
  end)

  it("interrupt", function()
    assert.is_true((client_of(sim()):interrupt "whatever"))
  end)

  it("say which client it was when it is gone", function()
    local s = sim()
    local c = client_of(s, { name = "big" })
    s:close()
    local stats, err = c:system_stats()
    assert.is_nil(stats)
    assert.equal("connection", err.kind)
    assert.equal("big", err.client)
    assert.is_nil((c:queue()))
    assert.is_nil((c:get "/queue"))
    assert.is_nil((c:upload { name = "a", data = "b" }))
  end)

  it("work in tasks side by side", function()
    local c = client_of(sim())
    local r = moonpool.task.all { moonpool.spawn(c.queue, c), moonpool.spawn(c.system_stats, c), moonpool.spawn(c.history, c) }
    assert.is_table(r[1].queue_running)
    assert.is_table(r[2].system)
    assert.same({}, r[3])
  end)
end)
