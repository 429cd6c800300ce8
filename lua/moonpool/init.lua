-- moonpool/init.lua: the API of scripts. The C half is moonpool.core; what waits is added here.
local core = require "moonpool.core"
local read_file = require("moonpool.file").read
local known = require "moonpool.known"
local net = require "moonpool.net"
local results = require "moonpool.result"
local task = require "moonpool.task"

local M = { http = net.http, ws = net.ws, json = core.json, spawn = task.spawn, sleep = task.sleep, task = task, core = core }
M._VERSION = "moonpool 0.1"

local fail = task.error

-- Results of a pcall, or its error raised as the caller's: called in tail position, so that level 2 is the script.
local function pass(ok, ...)
  if not ok then error((...), 2) end
  return ...
end

-- ---- workflows ----------------------------------------------------------------------------------------------

M.workflow = { from = core.workflow.from, hash = core.workflow.hash }

-- The workflow in a file: API-format JSON, or a PNG that ComfyUI saved. Reads the disk at once. nil, err when it
-- cannot be read, or is something else than a workflow.
function M.workflow.load(path)
  if type(path) ~= "string" then error("workflow.load: a path expected, got " .. type(path), 2) end
  local bytes, words = read_file(path)
  if not bytes then return nil, fail("io", words) end
  local w, err = core.workflow.from(bytes)
  if not w then
    err.message = path .. ": " .. err.message
    return nil, err
  end
  return w
end

-- true when x (text or table) is a workflow that could be submitted; else nil, err that says what it is or where it breaks.
function M.workflow.validate(x)
  local w, err = core.workflow.from(x)
  return w and true or nil, err
end

local Workflow = core.methods "moonpool.workflow"

local function attachment(what, source, name, options, level)
  if type(source) ~= "string" and not (type(source) == "table" and type(source.path) == "string") then
    error(what .. ": bytes, or {path = file}, expected", level + 1)
  end
  known(options, { subfolder = true, override = true, type = true, original = true }, what)
  local path = type(source) == "table" and source.path or nil
  name = name or path and path:match "[^/\\]+$"
  if type(name) ~= "string" then error(what .. ": a file name expected", level + 1) end
  local o = options or {}
  if o.override ~= nil and type(o.override) ~= "boolean" then error(what .. ": option 'override': true or false expected, got " .. type(o.override), level + 1) end
  return {
    data = type(source) == "string" and source or nil, path = path, name = name, subfolder = o.subfolder, type = o.type,
    overwrite = o.override, mask_of = o.original and core.json.encode(o.original),
  }
end

-- The picture in `source` (bytes, or {path = file}) is sent to the client before the prompt, once per client and content,
-- and the input gets the name that the server gives it. options: subfolder, type ("input"), override (replace a file
-- of that name there; else the server chooses another one). -> wf, or nil, err when the file cannot be read.
function Workflow:attach_image(node, input, source, name, options)
  return pass(pcall(self._attach, self, node, input, attachment("attach_image", source, name, options, 2)))
end

-- The alpha of this picture becomes the mask of options.original = {filename=, subfolder=, type=}, which is on the server.
function Workflow:attach_mask(node, input, source, name, options)
  if not options or type(options.original) ~= "table" then error("attach_mask: option 'original': {filename =, subfolder =, type =} expected", 2) end
  return pass(pcall(self._attach, self, node, input, attachment("attach_mask", source, name, options, 2)))
end

-- Files ({name=, data= or path=}) that only have to be on the server, in this subfolder of its input folder.
function Workflow:attach_folder_files(subfolder, files)
  if type(files) ~= "table" then error("attach_folder_files: a list of files expected, got " .. type(files), 2) end
  for k in pairs(files) do
    if math.type(k) ~= "integer" then error(("attach_folder_files: a list of files expected, found the key %s; write {{name =, data = or path =}, ...}"):format(tostring(k)), 2) end
  end
  for i, f in ipairs(files) do
    if type(f) ~= "table" then error("attach_folder_files: item " .. i .. ": {name =, data = or path =} expected", 2) end
    known(f, { name = true, data = true, path = true }, "attach_folder_files: item " .. i)
    local w, err = pass(pcall(self._attach, self, "", "", attachment("attach_folder_files", f.data or f, f.name, { subfolder = subfolder, override = true }, 2)))
    if not w then return nil, err end
  end
  return self
end

local named = setmetatable({}, { __mode = "k" })          -- per workflow: names of inputs

-- Calls one or more inputs ("6.text") by a name; wf:set(name, value) then sets them all.
function Workflow:name_input(name, ...)
  if type(name) ~= "string" or select("#", ...) == 0 then error("name_input: a name and paths of inputs expected", 2) end
  for i, path in ipairs { ... } do
    local known_node = false
    if type(path) ~= "string" then error(("name_input: path %d: a string like \"6.text\" expected, got %s"):format(i, type(path)), 2) end
    for _, n in ipairs(self:nodes()) do known_node = known_node or path:sub(1, #n.id + 1) == n.id .. "." end
    if not known_node then error(("name_input: the workflow has no node that \"%s\" begins with"):format(path), 2) end
  end
  local mine = named[self] or {}
  named[self] = mine
  mine[name] = { ... }
  return self
end

function Workflow:name_output(name, node) return pass(pcall(self.output, self, name, node)) end

local set_path, plain_clone = Workflow.set, Workflow.clone
function Workflow:set(path, value)
  local paths = named[self] and named[self][path]
  if not paths then return pass(pcall(set_path, self, path, value)) end
  for _, p in ipairs(paths) do pass(pcall(set_path, self, p, value)) end
  return self
end

function Workflow:clone()
  local c = plain_clone(self)
  local mine = named[self]
  if mine then
    named[c] = {}
    for k, v in pairs(mine) do named[c][k] = v end
  end
  return c
end

-- ---- the pool --------------------------------------------------------------------------------------------------------

local Pool = core.methods "moonpool.pool"
local ends = { ["job:completed"] = true, ["job:failed"] = true, ["job:canceled"] = true }
local open_pools = setmetatable({}, { __mode = "k" })

-- Words and a traceback for whatever a listener raised. Second: whether it was the interpreter's own word at Ctrl-C.
local function told(problem)
  local fine, words = pcall(tostring, problem)
  if not fine then words = "(an error whose words cannot be had)" end
  return { words = debug.traceback(words, 2), interrupted = core.is_interrupt(words) }
end

local function each(list, ...)
  if not list then return end
  for _, fn in ipairs({ table.unpack(list) }) do          -- a copy: listeners may leave while they are called
    local ok, problem = xpcall(fn, told, ...)
    if not ok and type(problem) ~= "table" then problem = { words = tostring(problem) } end    -- no memory or no stack for more
    if not ok and problem.interrupted then error(problem.words, 0) end
    if not ok then core.log("error", "listener: " .. problem.words) end
  end
end

-- Names of the library we follow, for events that have another one here.
local aliases = { ["job:accepted"] = "job:prompt_assigned", ["client:message"] = "client" }

local function payload(pool, name, id, serial, node, value, max, overall, data, format, delay)
  local p = { name = name }
  local client, was, was_url
  if serial ~= 0 then client, was, was_url = pool:_client(serial) end
  p.client, p.client_url = client and client.name or was, client and client.url or was_url
  if id ~= 0 then p.job_id = pool:_name(id) end
  if name == "job:progress" then
    p.node, p.value, p.max, p.overall = node, value, max, overall
  elseif name == "job:preview" then
    p.node, p.image, p.format, p.width, p.height = node, data, format, math.tointeger(value), math.tointeger(max)
  elseif name == "job:output" then
    p.node, p.output = node, core.json.decode(data)
  elseif name == "job:retrying" then
    p.delay_ms, p.error, p.will_retry = delay, data, true
  elseif name == "job:accepted" or name == "job:taken_back" then
    p.prompt_id = data
  elseif name == "client:blocked_workflow" or name == "client:unblocked_workflow" then
    p.structure_hash, p.error = node, data ~= "" and data or nil
  elseif name == "client:state" then
    p.state, p.problem = client and client.state or "removed", data ~= "" and data or nil
  elseif name == "client:message" then
    p.event_type, p.event_data = node, core.json.decode(data)
  else
    if data ~= "" then p.error = data end
    if name == "job:failed" then p.will_retry = false end
  end
  return p
end

-- Log lines are told from the loop, not from inside the pool.
local function tell_lines(pool)
  local st = pool:_state()
  local lines = st.lines
  st.lines = nil
  for _, l in ipairs(lines) do each(st.on[l.name], l) end
end

local function handler(pool, name, id, serial, ...)
  local st = pool:_state()
  if name == "log" then
    if not st.on[id] then return end
    if not st.lines then
      st.lines = {}
      core.timer(0, function() tell_lines(pool) end)
    end
    if #st.lines < 1000 then st.lines[#st.lines + 1] = { name = id, message = serial } end
    return
  end
  local short = name:match ":(.*)$"
  local of_job = st.jobs[id]
  local list, mine = st.on[name], of_job and of_job[short]
  local typed = name == "client:message" and (...)
  local also = aliases[name] and st.on[aliases[name]]
  if st.on.queue and (name == "job:queued" or ends[name]) then
    local s = pool:stats()
    each(st.on.queue, { name = "queue", pending = s.pending, assigned = s.assigned, running = s.running, job_id = pool:_name(id) })
  end
  if list or mine or also or (typed and st.on["client:" .. typed]) or core.host_event() then
    local p = payload(pool, name, id, serial, ...)
    each(mine, p)
    each(list, p)
    each(also, p)
    if typed then each(st.on["client:" .. typed], p) end
    if core.host_event() and name ~= "job:preview" then core.host_event(name, core.json.encode(p)) end
  end
  if ends[name] then
    local waiting = st.waiters[id]
    st.waiters[id], st.jobs[id] = nil, nil
    for _, wake in ipairs(waiting or {}) do wake(true) end
  end
  if ends[name] or name == "client:state" then
    local any = st.any
    st.any = {}
    for _, wake in ipairs(any) do wake(true) end
  end
end

local optional = { "job:queued", "job:accepted", "job:started", "job:progress", "job:preview", "job:output", "job:retrying", "job:taken_back",
  "client:blocked_workflow", "client:unblocked_workflow", "client:message" }

-- The names that begin with "job:" or "pool:"; "client:<type>" is any message of a server, and other names are the
-- script's own, for pool:emit.
local known_events = { ["client:state"] = true, ["pool:ready"] = true, ["pool:error"] = true, ["pool:status"] = true }
for _, name in ipairs(optional) do known_events[name] = true end
for name in pairs(ends) do known_events[name] = true end
for _, name in pairs(aliases) do known_events[name] = true end

local function want(pool)
  local st, names = pool:_state(), {}
  for _, name in ipairs(optional) do
    local short = name:match ":(.*)$"
    local host = name == "job:preview" and core.host_preview() or name ~= "job:preview" and name ~= "client:message" and core.host_event()
    names[name] = st.on[name] ~= nil or st.wanted[short] or (aliases[name] and st.on[aliases[name]] ~= nil) or host or nil
  end
  for name in pairs(st.on) do
    if name:find "^client:" and not known_events[name] then names["client:message"] = true end
  end
  names.log = st.on.debug ~= nil or st.on.info ~= nil or st.on.warn ~= nil or st.on.error ~= nil
  if st.on.queue then names["job:queued"] = true end
  names["client:state"] = st.on["client:state"] ~= nil or core.host_event() or nil       -- then also when it gets work, and has none left
  pool:_want(names)
end

-- What is going on, for the event pool:status: pool:stats(), and per client its state and load.
local function status(pool)
  local p = { name = "pool:status", stats = pool:stats(), clients = {} }
  for i, c in ipairs(pool:clients()) do
    p.clients[i] = { name = c.name, url = c.url, state = c.state, queued = c.queued, slots = c.slots, problem = c.problem, last_hash = c.last_hash }
  end
  return p
end

local function status_line(p)
  local s, words = p.stats, {}
  for i, c in ipairs(p.clients) do words[i] = ("%s %s %d/%d"):format(c.name, c.state, c.queued, c.slots) end
  return ("pool: %d waiting, %d on servers, %d completed, %d failed; %s"):format(s.pending, s.assigned + s.running, s.completed, s.failed, table.concat(words, ", "))
end

local function monitor(pool, interval)
  local st = pool:_state()
  local weak = setmetatable({ pool = pool }, { __mode = "v" })            -- a timer must not keep the pool alive
  local function tell()
    local p = weak.pool
    if not p or p:_closed() then return end
    local s = status(p)
    p:_log("info", status_line(s))
    each(p:_state().on["pool:status"], s)
    p:_state().monitor = core.timer(interval, tell)
  end
  st.monitor = core.timer(interval, tell)
end

-- What pools of this process take where their options do not say: set by the command line (--profile-log).
M._defaults = {}

-- A pool. Options: the table in the README. Raises on wrong options and on policies that do not load.
function M.pool(options)
  if next(M._defaults) and (options == nil or type(options) == "table") then
    local own = {}
    for k, v in pairs(M._defaults) do own[k] = v end
    for k, v in pairs(options or {}) do own[k] = v end
    options = own
  end
  local ok, pool = pcall(core.pool, options)
  if not ok then error(pool, 2) end
  local monitoring, interval = options and options.monitoring, options and options.monitoring_interval_ms or 60000
  if monitoring ~= nil and type(monitoring) ~= "boolean" then error("pool: option 'monitoring': true or false expected, got " .. type(monitoring), 2) end
  if type(interval) ~= "number" or not (interval >= 1 and interval <= 1e12) then error("pool: option 'monitoring_interval_ms': milliseconds from 1 expected", 2) end
  local st = pool:_state()
  st.on, st.jobs, st.waiters, st.any, st.wanted = {}, {}, {}, {}, {}
  st.live = setmetatable({}, { __mode = "k" })
  st.policy = options and options.policy
  pool:_handler(handler)
  open_pools[pool] = true
  want(pool)
  if monitoring then monitor(pool, interval) end
  return pool
end

-- Waits until every client's first connection attempt is decided. true when at least one is online; else nil, err
-- that names what is wrong where. Those that failed go on trying.
function Pool:init()
  local st = self:_state()
  while true do
    local undecided, online, words = 0, 0, {}
    for _, c in ipairs(self:clients()) do
      if c.online then online = online + 1
      elseif not c.tried then undecided = undecided + 1
      else words[#words + 1] = c.url .. ": " .. (c.problem or "not connected") end
    end
    if undecided == 0 then
      if online > 0 then
        if not st.ready then each(st.on["pool:ready"], { name = "pool:ready", online = online, problems = words }) end
        st.ready = true
        return true
      end
      local err = fail("no_clients", #words > 0 and "no client could be reached: " .. table.concat(words, "; ") or "the pool has no clients")
      each(st.on["pool:error"], { name = "pool:error", error = err })
      return nil, err
    end
    task.await(function(done) st.any[#st.any + 1] = done end)
  end
end

-- Loads the pool's policy files again, as the option `policy` named them: all of them or, when one does not load, none.
-- What they kept between calls is gone; faults count from 0. true, or nil, err (kind "policy"), and the old ones stay.
function Pool:reload_policy()
  local ok, words = pcall(self._reload, self, self:_state().policy)
  if not ok then return nil, fail("policy", words) end
  return true
end

-- The client with this URL or name, or nil.
function Pool:client(url)
  for _, c in ipairs(self:clients()) do
    if c.url == url or c.name == url then return c end
  end
end

function Pool:idle_clients()
  local idle = {}
  for _, c in ipairs(self:clients()) do
    if c.state == "idle" then idle[#idle + 1] = c end
  end
  return idle
end

function Pool:has_clients_for(workflow) return #self:clients_for(workflow) > 0 end

-- Takes a client out, by object, URL or name. What it held goes elsewhere, or with {drain = true} is finished there
-- first. false when it is not there.
function Pool:remove_client(which, options)
  local c = type(which) == "string" and self:client(which) or which
  if c == nil or type(c) == "string" then return false end
  if type(c) ~= "userdata" then error("pool:remove_client: a client, its URL or its name expected, got " .. type(c), 2) end
  return c:remove(options)
end

-- Nothing new is sent until resume; what is on servers goes on.
function Pool:pause() self:_pause(true) return self end
function Pool:resume() self:_pause(false) return self end

-- A task that submits a thousand jobs lets the first ones leave.
local function breathe(ok, ...)
  if not ok then error((...), 2) end
  task.breathe(32)
  return ...
end

-- A job for the workflow as it is now (later changes to it do not count). Does not wait: sending starts with the
-- loop. nil, err when the queue is full, a policy refuses it or the pool is closing. Options: README.
function Pool:submit(workflow, options)
  if type(workflow) == "table" then error("submit: a workflow expected, got a table (use moonpool.workflow.from, or submit_variants for a list)", 2) end
  if type(workflow) ~= "userdata" then error("submit: a workflow expected, got " .. type(workflow), 2) end
  return breathe(pcall(self._submit, self, workflow, options))
end

-- One job for whichever of these workflows can be sent first: it stays open to every variant whenever it waits. Between
-- variants that one client could run, the first in the list goes; result.workflow is the one that was sent.
function Pool:submit_variants(list, options)
  if type(list) ~= "table" then error("submit_variants: a list of workflows expected, got " .. type(list), 2) end
  return breathe(pcall(self._submit, self, list, options))
end

-- Calls fn(payload) at every event of that name ("job:completed", "client:state", "client:executing", ...).
function Pool:on(name, fn)
  if type(fn) ~= "function" then error("pool:on: a function expected, got " .. type(fn), 2) end
  if type(name) ~= "string" then error("pool:on: the name of an event expected, got " .. type(name), 2) end
  if (name:find "^job:" or name:find "^pool:") and not known_events[name] then
    local names = {}
    for event in pairs(known_events) do names[#names + 1] = event end
    table.sort(names)
    error("pool:on: there is no event '" .. name .. "'" .. select(2, require "moonpool.near"(name, names)), 2)
  end
  local st = self:_state()
  st.on[name] = st.on[name] or {}
  table.insert(st.on[name], fn)
  want(self)
  return self
end

function Pool:off(name, fn)
  local st = self:_state()
  for i = #(st.on[name] or {}), 1, -1 do
    if fn == nil or st.on[name][i] == fn then table.remove(st.on[name], i) end
  end
  if st.on[name] and #st.on[name] == 0 then st.on[name] = nil end
  want(self)
  return self
end

function Pool:emit(name, value) each(self:_state().on[name], value) end

-- Iterates over the results of all jobs as they end, each once, also those that ended before; ends when nothing is
-- unfinished or undelivered. Waits in between.
function Pool:results()
  return function()
    while true do
      if self:_closed() then return nil end
      local job = self:_undelivered()
      if job then
        local r = results.of(job)
        job:_delivered()
        return r
      end
      if self:stats().unfinished == 0 then return nil end
      local st = self:_state()
      task.await(function(done) st.any[#st.any + 1] = done end)
    end
  end
end

local function settle(self)
  for r in pairs(self:_state().live) do results.settle(r) end
end

local function close(self)
  if self:_closed() then return end
  local st = self:_state()
  settle(self)
  self:_free()
  open_pools[self] = nil
  for _, list in pairs(st.waiters) do
    for _, wake in ipairs(list) do wake(true) end
  end
  for _, wake in ipairs(st.any) do wake(true) end
  st.waiters, st.any = {}, {}
end

-- Stops taking jobs. drain: those there are finished first; else they are canceled, and what is on servers is
-- deleted or interrupted. Waits at most timeout_ms (drain: no bound unless given; else 2000). Then closes the pool.
function Pool:shutdown(options)
  known(options, { drain = true, timeout_ms = true }, "shutdown")
  local given, bound = options and options.drain, options and options.timeout_ms
  if given ~= nil and type(given) ~= "boolean" then error("shutdown: option 'drain': true or false expected, got " .. type(given), 2) end
  if bound ~= nil and (type(bound) ~= "number" or bound ~= bound or bound < 0) then error("shutdown: option 'timeout_ms': milliseconds from 0 expected, got " .. tostring(bound), 2) end
  if self:_closed() then return end
  local drain = options and options.drain or false
  local timeout = options and options.timeout_ms or not drain and 2000 or nil
  local began = core.now()
  self:_stop(drain)
  if not task.may_wait() then                              -- the rest happens in a task, if there is any
    if not core.in_callback() and self:_quiet() then return close(self) end
    task.spawn(function()
      if not self:_closed() then self:shutdown { drain = drain, timeout_ms = timeout } end
    end)
    return
  end
  local function wait_until(deadline)
    repeat task.sleep(1) until self:_closed() or self:_quiet() or (deadline and core.now() >= deadline)
  end
  wait_until(timeout and began + timeout)
  if drain and not self:_closed() and not self:_quiet() then   -- its time is over: what is left is canceled
    self:_stop(false)
    wait_until(core.now() + 2000)
  end
  close(self)
end

core.metatable("moonpool.pool").__close = function(pool) pool:shutdown() end

-- All pools that are open; for the interpreter's signal handling.
function M.pools()
  local list = {}
  for p in pairs(open_pools) do
    if not p:_closed() then list[#list + 1] = p end
  end
  return list
end

-- ---- jobs ---------------------------------------------------------------------------------------------------------------

local Job = core.methods "moonpool.job"

-- Waits for the end and returns the result. With timeout_ms: nil, err{kind="timeout"} when it has not ended by then;
-- the job goes on.
function Job:wait(timeout_ms)
  if timeout_ms ~= nil and type(timeout_ms) ~= "number" then error("job:wait: milliseconds expected, got " .. type(timeout_ms), 2) end
  if not self.ended then
    local st, key = self.pool:_state(), self:_key()
    local pool = self.pool
    local _, why = task.await(function(done)
      local list = st.waiters[key] or {}
      st.waiters[key] = list
      list[#list + 1] = done
      return function()                                    -- the time was over first
        for i = #list, 1, -1 do
          if list[i] == done then table.remove(list, i) end
        end
      end
    end, timeout_ms, self)
    if pool:_closed() then return nil, fail("gone", "the pool was closed before the job had ended") end
    if why == task.TIMEOUT then return nil, fail("timeout", "the job has not ended yet (" .. self.status .. ")") end
  end
  local r = results.of(self)
  self:_delivered()
  return r
end

-- The result if the job has ended, else nil. Does not wait.
function Job:result() return self.ended and results.of(self) or nil end

-- Calls fn(payload) at this job's events: "progress", "preview", "output", "accepted", "started", "retrying",
-- "completed", "failed", "canceled".
function Job:on(name, fn)
  if type(fn) ~= "function" then error("job:on: a function expected, got " .. type(fn), 2) end
  if name == "prompt_assigned" then name = "accepted" end
  if not known_events["job:" .. tostring(name)] or name == "queued" then error("job:on: there is no event '" .. tostring(name) .. "'", 2) end
  local pool, key = self.pool, self:_key()
  local st = pool:_state()
  if self.ended then return self end
  st.jobs[key] = st.jobs[key] or {}
  st.jobs[key][name] = st.jobs[key][name] or {}
  table.insert(st.jobs[key][name], fn)
  if not st.wanted[name] then
    st.wanted[name] = true
    want(pool)
  end
  return self
end

-- ---- the rest -------------------------------------------------------------------------------------------------------------

-- A simulated server on a real port of 127.0.0.1. Options: README. nil, err when the port cannot be had.
M.sim = core.sim
M.step = core.step
M.report = require "moonpool.report"
M.profiles = require "moonpool.profiles"
M.plan = require "moonpool.plan"
M.batch = require "moonpool.batch"
M.config = require "moonpool.config"
M.edit = require "moonpool.edit"

for class, word in pairs { pool = "pool", client = "client", job = "job", workflow = "workflow", sim = "sim", runs = "runs" } do
  local name = "moonpool." .. class
  require "moonpool.self"(core.methods(name), word, function(x)
    local mt = type(x) == "userdata" and getmetatable(x)
    return mt and mt.__name == name
  end)
end

return M
