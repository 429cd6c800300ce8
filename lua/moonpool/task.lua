-- moonpool/task.lua: waiting. A task is a coroutine of ours; what waits inside it yields to the loop, and outside of
-- any task it runs the loop until done. Callbacks and hooks may not wait.
local core = require "moonpool.core"

local M = {}
local by_coroutine = setmetatable({}, { __mode = "k" })
local ready = {}
local alive = 0
M.TIMEOUT = {}                         -- what await answers behind nil when its time is up

local Task = {}
Task.__index = Task
Task.__name = "moonpool.task"

-- Called at each turn of a wait outside of tasks; the command line puts its signal check here.
M.on_idle = function() end

local unheard = {}

-- Logs the errors of tasks that nobody waited for, and forgets them. Returns how many there have been in all.
function M.tell_unheard()
  local list = unheard
  unheard = {}
  for _, t in ipairs(list) do
    if not t.heard then
      M.failed = (M.failed or 0) + 1
      core.log("error", "task: " .. tostring(t.error))
    end
  end
  return M.failed or 0
end

-- Without memory for the list the task is found by what it says of itself: a wait whose end was lost would never end.
local missed = false
local function make_ready(task)
  task.awake, missed = true, true
  ready[#ready + 1] = task
  missed = false
  core.wake()
end

local function finish(task, ok, ...)
  task.done = true
  alive = alive - 1
  if ok then
    task.values = table.pack(...)
  else
    local words = (...)
    task.error = type(words) == "string" and debug.traceback(task.co, words) or words
    coroutine.close(task.co)                             -- what it had open is closed now, not when it is collected
  end
  if not ok and #task.waiters == 0 then                    -- perhaps somebody waits later; else it is told at the end
    unheard[#unheard + 1] = task
    task.ended = core.now()
    if #unheard > 100 then M.tell_unheard() end
  end
  for _, wake in ipairs(task.waiters) do wake() end
end

local function resume(task)
  if task.done or not task.awake then return end
  task.awake = false
  if task.args and task.canceled then return finish(task, false, task.canceled) end
  local function after(ok, ...)
    if not ok or coroutine.status(task.co) == "dead" then finish(task, ok, ...) end
  end
  if task.args then
    local args = task.args
    task.args = nil
    after(coroutine.resume(task.co, table.unpack(args, 1, args.n)))
  else
    after(coroutine.resume(task.co))
  end
end

core.on_turn(function()
  if missed then
    local awake = {}
    for _, task in pairs(by_coroutine) do
      if task.awake then awake[#awake + 1] = task end
    end
    missed = false
    for _, task in ipairs(awake) do resume(task) end
  end
  while #ready > 0 do
    local now = ready
    ready = {}
    for i = 1, #now do resume(now[i]) end
  end
  -- A host's script has no end at which its tasks' errors could be told.
  if not M.interpreter and unheard[1] and core.now() - unheard[1].ended > 1000 then M.tell_unheard() end
end)

-- Starts fn(...) as a task at the loop's next turn. Returns the task: task:wait() gives its results, or raises its
-- error with its own traceback. An error nobody has waited for by the end of the script is logged.
function M.spawn(fn, ...)
  if type(fn) ~= "function" then error("spawn: a function expected, got " .. type(fn), 2) end
  local task = setmetatable({ co = coroutine.create(fn), args = table.pack(...), waiters = {}, done = false, awake = false }, Task)
  by_coroutine[task.co] = task
  alive = alive + 1
  make_ready(task)
  return task
end

-- Waits until `done` was called: start(done) begins the operation and may return a function that cancels it.
-- Returns what done got; nil, TIMEOUT after timeout_ms. waits_for: canceled with the task that waits here. The base of
-- everything that waits.
function M.await(start, timeout_ms, waits_for)
  local co, main = coroutine.running()
  local task = by_coroutine[co]
  if core.in_callback() then error("callbacks and hooks may not wait; use moonpool.spawn", 3) end
  if not task and not main then error("a coroutine of your own may not wait; use moonpool.spawn", 3) end
  if task and task.done then error("a task that has ended may not wait; use moonpool.spawn", 3) end
  local finished, values, timer, blocked = false, nil, nil, false
  local function done(...)
    if finished then return end
    finished = true                                          -- before anything that needs memory
    if timer then timer:cancel() end
    if blocked then make_ready(task) end
    values = table.pack(...)
  end
  if task and task.canceled then error(task.canceled, 0) end
  local cancel = start(done)
  if not finished then
    if timeout_ms then
      timer = core.timer(timeout_ms, function()
        if cancel then cancel() end
        done(nil, M.TIMEOUT)
      end)
    end
    if task then
      blocked = true
      task.stop = function()
        if cancel then cancel() end
        done()
      end
      task.waits_for = waits_for
      coroutine.yield()
      task.stop, task.waits_for = nil, nil
      if task.canceled then error(task.canceled, 0) end
    else
      while not finished do
        core.step(100)
        M.on_idle()
      end
    end
  end
  if not values then error("not enough memory", 0) end
  return table.unpack(values, 1, values.n)
end

local breaths = 0

-- Every n-th call inside a task waits for the loop's next turn, so that a long loop in a task does not stop the world.
function M.breathe(n)
  breaths = breaths + 1
  if breaths % n ~= 0 then return end
  local task = by_coroutine[coroutine.running()]
  if task and not task.done and not core.in_callback() then
    M.await(function(done) core.timer(0, done) end)
  end
end

-- Waits ms milliseconds.
function M.sleep(ms)
  if type(ms) ~= "number" then error("sleep: milliseconds expected, got " .. type(ms), 2) end
  M.await(function(done) core.timer(ms, done) end)
end

local function time_out(ms, what)
  if ms ~= nil and (type(ms) ~= "number" or ms ~= ms) then error(what .. ": milliseconds expected, got " .. type(ms), 3) end
end

-- Puts `done` among those that are told of the task's end; gives a function that takes it out again.
local function listen(task, done)
  local list = task.waiters
  list[#list + 1] = done
  return function()
    for i = #list, 1, -1 do
      if list[i] == done then table.remove(list, i) end
    end
  end
end

-- The results of the task; raises what it raised. With timeout_ms: nil, err{kind="timeout"} when it is not done by then.
function Task:wait(timeout_ms)
  time_out(timeout_ms, "task:wait")
  if by_coroutine[coroutine.running()] == self then error("task:wait: a task cannot wait for itself", 2) end
  if not self.done then
    local _, why = M.await(function(done) return listen(self, done) end, timeout_ms, self)
    if why == M.TIMEOUT then return nil, M.error("timeout", "the task is not done yet") end
  end
  self.heard = true
  if self.error ~= nil then error(self.error, 0) end
  return table.unpack(self.values, 1, self.values.n)
end

-- Ends a task: what it waits for is given up (a job it waits for in job:wait is canceled, a task it waits for in task:wait is
-- canceled too), and the wait raises an error of kind "canceled" inside of it, so that its <close> variables are closed (what they
-- wait for is not waited for any more; pools are closed in the background).
-- Whoever waits for the task gets that error, too. A task that only computes ends at its next wait. false: it had ended.
function Task:cancel()
  if self.done then return false end
  self.canceled = self.canceled or M.error("canceled", "the task was canceled")
  self.heard = true                                        -- nobody needs to be told
  local object = self.waits_for
  self.waits_for = nil
  if object then object:cancel() end
  if self.stop then self.stop() end
  return true
end

local function check_list(tasks, what)
  if type(tasks) ~= "table" then error(what .. ": a list of tasks expected, got " .. type(tasks), 3) end
  for i, t in ipairs(tasks) do
    if getmetatable(t) ~= Task then error(("%s: item %d: a task expected, got %s"):format(what, i, type(t)), 3) end
  end
end

-- Waits for all tasks of a list; raises the first error (in the order of the list) when all have ended. Returns the first
-- result of each. With timeout_ms: nil, err{kind="timeout"} when not all are done by then; they go on.
function M.all(tasks, timeout_ms)
  check_list(tasks, "task.all")
  time_out(timeout_ms, "task.all")
  local results, deadline = {}, timeout_ms and core.now() + timeout_ms
  for _, t in ipairs(tasks) do
    if not t.done then
      local _, why = M.await(function(done) return listen(t, done) end, deadline and math.max(deadline - core.now(), 0))
      if why == M.TIMEOUT then return nil, M.error("timeout", "not all tasks are done yet") end
    end
  end
  for _, t in ipairs(tasks) do t.heard = true end          -- the first error stands for all
  for i, t in ipairs(tasks) do results[i] = t:wait() end
  return results
end

-- Waits until one of the tasks has ended; returns its place in the list and its results, or raises its error. The others go
-- on. With timeout_ms: nil, err{kind="timeout"}. An empty list raises: it would wait for ever.
function M.first(tasks, timeout_ms)
  check_list(tasks, "task.first")
  if #tasks == 0 then error("task.first: there are no tasks", 2) end
  time_out(timeout_ms, "task.first")
  local function ended()
    for i, t in ipairs(tasks) do
      if t.done then return i end
    end
  end
  if not ended() then
    local leave = {}
    local function leave_all()
      for _, fn in ipairs(leave) do fn() end
    end
    local _, why = M.await(function(done)
      for i, t in ipairs(tasks) do leave[i] = listen(t, done) end
      return leave_all
    end, timeout_ms)
    leave_all()
    if why == M.TIMEOUT then return nil, M.error("timeout", "no task is done yet") end
  end
  local i = ended()
  return i, tasks[i]:wait()
end

-- Runs fn(item, place) for every item of a list (or of an iterator function), at most n at a time, each in a task of its own.
-- Waits for all; returns the first result of each, by place. The first error cancels the rest and is raised.
function M.workers(n, items, fn)
  if math.type(n) ~= "integer" or n < 1 then error("task.workers: a whole number from 1 expected", 2) end
  if type(fn) ~= "function" then error("task.workers: a function expected, got " .. type(fn), 2) end
  if type(items) ~= "table" and type(items) ~= "function" then error("task.workers: a list or an iterator expected, got " .. type(items), 2) end
  local place, results, tasks, trouble, ended = 0, {}, {}, nil, false
  local function take()
    if ended or trouble then return nil end
    place = place + 1
    local item
    if type(items) == "function" then item = items() else item = items[place] end
    if item == nil then ended = true return nil end
    return item, place
  end
  for i = 1, n do
    tasks[i] = M.spawn(function()
      local ok, value = xpcall(function()
        for item, at in take do results[at] = fn(item, at) end
      end, function(e) return type(e) == "string" and debug.traceback(e, 2) or e end)
      if ok or trouble then return end
      trouble = { value }
      for _, t in ipairs(tasks) do
        if coroutine.running() ~= t.co then t:cancel() end
      end
    end)
  end
  for _, t in ipairs(tasks) do
    if not t.done then M.await(function(done)
      listen(t, done)
      return function() for _, x in ipairs(tasks) do x:cancel() end end
    end) end
    t.heard = true
  end
  if trouble then error(trouble[1], 0) end
  return results
end

-- ---- channels ---------------------------------------------------------------------------------------------------------

local Channel = {}
Channel.__index = Channel

-- A queue between tasks: channel:put(value) waits while it holds `room` values (default 1), channel:get(timeout_ms) waits for
-- one (a false value is one, nil is none), channel:close() lets what is inside be taken and then ends: get gives nil, and
-- `for v in channel:values()` ends.
function M.channel(room)
  if room ~= nil and (math.type(room) ~= "integer" or room < 1) then error("task.channel: a whole number from 1 expected", 2) end
  return setmetatable({ room = room or 1, list = {}, first = 1, last = 0, getters = {}, putters = {}, closed = false }, Channel)
end

-- Wakes the first who still waits.
local function wake_one(list)
  while #list > 0 do
    local wake = table.remove(list, 1)
    if wake() then return end
  end
end

local function wait_in(list, timeout_ms)
  local woken, over = false, false
  return M.await(function(done)
    list[#list + 1] = function()
      if over then return false end
      woken, over = true, true
      done(true)
      return true
    end
    return function()                                      -- canceled, or its time is up
      if woken then wake_one(list) end                     -- it was told, and will not come: the next one is
      over = true
    end
  end, timeout_ms)
end

function Channel:put(value)
  if value == nil then error("channel:put: nil is no value", 2) end
  while not self.closed and self.last - self.first + 1 >= self.room do wait_in(self.putters) end
  if self.closed then error("channel:put: the channel is closed", 2) end
  self.last = self.last + 1
  self.list[self.last] = value
  wake_one(self.getters)
end

function Channel:get(timeout_ms)
  time_out(timeout_ms, "channel:get")
  local deadline = timeout_ms and core.now() + timeout_ms
  while self.first > self.last do
    if self.closed then return nil end
    local _, why = wait_in(self.getters, deadline and math.max(deadline - core.now(), 0))
    if why == M.TIMEOUT then return nil, M.error("timeout", "nothing came in time") end
  end
  local value = self.list[self.first]
  self.list[self.first] = nil
  self.first = self.first + 1
  wake_one(self.putters)
  return value
end

function Channel:values()
  return function() return (self:get()) end
end

function Channel:close()
  self.closed = true
  for _, list in ipairs { self.getters, self.putters } do
    while #list > 0 do table.remove(list, 1)() end
  end
end

function M.error(kind, message, client)
  return setmetatable({ kind = kind, message = message, client = client }, core.metatable "moonpool.error")
end

-- Whether the caller may wait: in a task that runs, or outside of any; not in callbacks, and not while a task that
-- raised is being closed.
function M.may_wait()
  local co, main = coroutine.running()
  local t = by_coroutine[co]
  return not core.in_callback() and (main or t ~= nil and not t.done)
end

function M.count() return alive end

-- Runs the loop until no task is left. For the interpreter, after the script's end.
function M.drain()
  while alive > 0 do
    core.step(100)
    M.on_idle()
  end
end

require "moonpool.self"(Task, "task", function(x) return getmetatable(x) == Task end)
require "moonpool.self"(Channel, "channel", function(x) return getmetatable(x) == Channel end)

return M
