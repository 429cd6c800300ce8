-- tests/spec/kit.lua: pools, simulated servers and scripted ones, for the specs of the pool. Nothing here depends on
-- how fast anything is: what must last long never begins, is held, or has ten thousand steps.
local H = require "helper"
local moonpool = require "moonpool"

local K = { json = moonpool.json }
local opened = {}

function K.keep(object, close)
  opened[#opened + 1] = function() close(object) end
  return object
end

-- For after_each: closes what was opened, last first.
function K.clean()
  for i = #opened, 1, -1 do pcall(opened[i]) end
  opened = {}
end

-- Every node at once, but the sampler.
function K.costs(sampler)
  local all = { KSampler = sampler }
  for _, class in ipairs { "CheckpointLoaderSimple", "EmptyLatentImage", "CLIPTextEncode", "VAEDecode", "SaveImage", "PreviewImage", "LoadImage", "ImageInvert" } do all[class] = 0.1 end
  return all
end

-- A simulated server whose picture() takes about five milliseconds. step_ms: a slow one, at speed 1.
function K.sim(options)
  local o = { speed = 50, costs = K.costs { ms = 0, step_ms = 30 } }
  for k, v in pairs(options or {}) do o[k] = v end
  if o.step_ms then o.speed, o.costs, o.step_ms = 1, K.costs { ms = 0, step_ms = o.step_ms }, nil end
  return K.keep(assert(moonpool.sim(o)), function(s) s:close() end)
end

-- A sim that takes prompts and runs none.
function K.wedged(options)
  local s = K.sim(options)
  s:wedge()
  return s
end

function K.pool(options)
  local o = { log_level = "silent", reconnect_base_ms = 40, retry_delay_ms = 1 }
  for k, v in pairs(options or {}) do o[k] = v end
  return K.keep(moonpool.pool(o), function(p) p:shutdown { timeout_ms = 0 } end)
end

-- A pool that is connected to the given servers; entries are servers, or {server, options of add_client}.
function K.pool_of(servers, options)
  local pool, clients = K.pool(options), {}
  for i, s in ipairs(servers) do
    local server, o = s, nil
    if type(s) == "table" and s[1] then server, o = s[1], s[2] end
    clients[i] = assert(pool:add_client(server.url, o))
  end
  assert(pool:init())
  K.till("every client is online", function() return pool:stats().online == #clients end)
  return pool, table.unpack(clients)
end

-- Two sims called a and b; a has the higher priority.
function K.pair(options, a, b)
  a, b = a or K.sim(), b or K.sim()
  local pool, ca, cb = K.pool_of({ { a, { name = "a", priority = 5 } }, { b, { name = "b", priority = 1 } } }, options)
  return pool, a, b, ca, cb
end

-- The client of the highest priority, warm or not.
K.by_priority = { route = function(_, clients)
  local best = clients[1]
  for _, c in ipairs(clients) do
    if c.priority > best.priority then best = c end
  end
  return best
end }

-- Turns the loop until pred() holds, and gives what it gave. The bound only keeps a broken pool from hanging the run.
function K.till(what, pred)
  local bound = os.time() + 30
  while true do
    local value = pred()
    if value then return value end
    if os.time() > bound then error("it never came to this: " .. what, 2) end
    moonpool.step(10)
  end
end

-- Turns the loop so often that whatever is ready to happen has happened.
function K.turns()
  for _ = 1, 30 do moonpool.step(1) end
end

-- The job's result; a job that does not end is an error here.
function K.ended(job)
  local r, err = job:wait(30000)
  if not r then error("the job has not ended: " .. tostring(err), 2) end
  return r
end

function K.completed(job)
  local r = K.ended(job)
  if r.status ~= "completed" then error("the job " .. r.status .. ": " .. tostring(r.error), 2) end
  return r
end

-- An address of this machine where nobody listens.
function K.nowhere()
  local s = assert(moonpool.sim {})
  local url = s.url
  s:close()
  for _ = 1, 5 do moonpool.step(0) end
  return url
end

-- Every event of these names, in order.
function K.events(pool, ...)
  local seen = {}
  for _, name in ipairs { ... } do pool:on(name, function(e) seen[#seen + 1] = e end) end
  return seen
end

-- The ids of jobs in the order in which servers began them.
function K.starts(pool)
  local order = {}
  pool:on("job:started", function(e) order[#order + 1] = e.job_id end)
  return order
end

-- pairs() in the order of the keys, so that specs made in a loop come in the same order each time.
function K.sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  local i = 0
  return function()
    i = i + 1
    return keys[i], t[keys[i]]
  end
end

function K.ids(jobs)
  local ids = {}
  for i, j in ipairs(jobs) do ids[i] = j.id end
  return ids
end

-- ---- workflows -------------------------------------------------------------------------------------------------

function K.picture(seed)
  local wf = assert(moonpool.workflow.from(H.text_to_image))
  if seed then wf:input("3", "seed", seed) end
  return wf
end

function K.endless() return K.picture():input("3", "steps", 10000) end

-- picture() with a second output, node 10: another structural hash, the same model.
function K.two_outputs()
  local text, n = H.text_to_image:gsub('"filename_prefix": "lighthouse"}}', '%0,\n "10": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}')
  assert(n == 1)
  return assert(moonpool.workflow.from(text))
end

-- picture() with another model, so that nobody is warm for it.
function K.other_model() return K.picture():input("4", "ckpt_name", "sdxl.safetensors") end

-- One picture in, one picture out.
function K.from_image(name)
  return assert(moonpool.workflow.from {
    ["1"] = { class_type = "LoadImage", inputs = { image = name or "nothing.png" } },
    ["2"] = { class_type = "ImageInvert", inputs = { image = { "1", 0 } } },
    ["9"] = { class_type = "SaveImage", inputs = { images = { "2", 0 }, filename_prefix = "inverted" } },
  })
end

-- ---- scripted servers (scripted.py) ----------------------------------------------------------------------------

K.python = os.execute "python3 -c '' >/dev/null 2>&1"

local Server = {}
Server.__index = Server
local first, pipe

-- Their process, through the first of them; it ends with the pipe to it.
local function control()
  if first then return first end
  local said = H.folder "scripted" .. "/port"
  pipe = assert(io.popen(("exec python3 tests/spec/scripted.py >%s 2>%s.err"):format(said, said), "w"))
  pipe:setvbuf "no"
  local port = K.till("the scripted servers are there", function()
    local f = io.open(said)
    local line = f and f:read "l"
    if f then f:close() end
    return line
  end)
  first = setmetatable({ base = "http://127.0.0.1:" .. port }, Server)
  return first
end

-- A server that does as it is told. Settings: scripted.py.
function K.server(settings)
  local base = ("http://127.0.0.1:%d"):format(control():tell("/_new", settings))
  return K.keep(setmetatable({ base = base, url = base .. (settings and settings.prefix or "") }, Server), function(s) s:tell "/_end" end)
end

function Server:tell(path, value)
  local reply = assert(moonpool.http.request { method = "POST", url = self.base .. path, body = moonpool.json.encode(value or {}) })
  assert(reply.status == 200)
  return moonpool.json.decode(reply.body)
end

function Server:set(settings) self:tell("/_set", settings) end
function Server:go() self:tell "/_go" end
function Server:drop() self:tell "/_drop" end
function Server:say(frames) self:tell("/_say", moonpool.json.array(frames)) end

-- Bytes other than NUL as JSON text can carry them (each a code point), and back.
function K.to_text(bytes) return (bytes:gsub("[\128-\255]", function(c) return utf8.char(c:byte()) end)) end
function K.to_bytes(text) return (text:gsub(utf8.charpattern, function(c) return string.char(utf8.codepoint(c)) end)) end

-- The requests it has had, oldest first; method and path (a pattern, without the query) choose.
function Server:seen(method, path)
  local list = {}
  for _, r in ipairs(self:tell "/_seen") do
    if (not method or r.method == method) and (not path or r.path:find("^" .. path .. "$")) then
      for _, part in ipairs(r.parts or {}) do part.data = K.to_bytes(part.data) end
      list[#list + 1] = r
    end
  end
  return list
end

-- What clients said on their sockets, oldest first: {sid, text}.
function Server:heard() return self:tell "/_heard" end

-- The prompts posted to it, as tables.
function Server:prompts()
  local list = {}
  for i, r in ipairs(self:seen("POST", ".*/prompt")) do list[i] = moonpool.json.decode(r.body) end
  return list
end

-- Declares specs that need python3, with the `it` and `pending` of the file that asks.
function K.scripted(it, pending)
  return function(name, fn)
    it(name, function()
      if not K.python then return pending "python3 is missing" end
      return fn()
    end)
  end
end

return K
