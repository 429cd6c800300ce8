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

local function make_ready(task)
  ready[#ready + 1] = task
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
    if #unheard > 100 then M.tell_unheard() end
  end
  for _, wake in ipairs(task.waiters) do wake() end
end

local function resume(task)
  if task.done then return end
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
  while #ready > 0 do
    local now = ready
    ready = {}
    for i = 1, #now do resume(now[i]) end
  end
end)

-- Starts fn(...) as a task at the loop's next turn. Returns the task: task:wait() gives its results, or raises its
-- error with its own traceback. An error nobody has waited for by the end of the script is logged.
function M.spawn(fn, ...)
  if type(fn) ~= "function" then error("spawn: a function expected, got " .. type(fn), 2) end
  local task = setmetatable({ co = coroutine.create(fn), args = table.pack(...), waiters = {}, done = false }, Task)
  by_coroutine[task.co] = task
  alive = alive + 1
  make_ready(task)
  return task
end

-- Waits until `done` was called: start(done) begins the operation and may return a function that cancels it.
-- Returns what done got; nil, TIMEOUT after timeout_ms. The base of everything that waits.
function M.await(start, timeout_ms)
  local co, main = coroutine.running()
  local task = by_coroutine[co]
  if core.in_callback() then error("callbacks and hooks may not wait; use moonpool.spawn", 3) end
  if not task and not main then error("a coroutine of your own may not wait; use moonpool.spawn", 3) end
  if task and task.done then error("a task that has ended may not wait; use moonpool.spawn", 3) end
  local finished, values, timer, blocked = false, nil, nil, false
  local function done(...)
    if finished then return end
    finished, values = true, table.pack(...)
    if timer then timer:cancel() end
    if blocked then make_ready(task) end
  end
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
      coroutine.yield()
    else
      while not finished do
        core.step(100)
        M.on_idle()
      end
    end
  end
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

-- The results of the task; raises what it raised. With timeout_ms: nil, err{kind="timeout"} when it is not done by then.
function Task:wait(timeout_ms)
  if not self.done then
    local _, why = M.await(function(done) self.waiters[#self.waiters + 1] = done end, timeout_ms)
    if why == M.TIMEOUT then return nil, M.error("timeout", "the task is not done yet") end
  end
  self.heard = true
  if self.error ~= nil then error(self.error, 0) end
  return table.unpack(self.values, 1, self.values.n)
end

-- Waits for all tasks of a list; raises the first error. Returns the first result of each.
function M.all(tasks)
  local results = {}
  for i, t in ipairs(tasks) do results[i] = t:wait() end
  return results
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

return M
