-- tests/chaos/cluster.lua: the processes of a run: simulated servers, and the proxy in front of them.
-- A guard of its own ends them all when the run is gone, however it ended.
local moonpool = require "moonpool"

local Cluster = {}
Cluster.__index = Cluster

local function read(path)
  local f = io.open(path, "rb")
  local text = f and f:read "a" or ""
  if f then f:close() end
  return text
end

local function sh(command)
  local p = assert(io.popen(command))
  local out = p:read "a"
  p:close()
  return out
end

-- Waits until `found()` gives something; nil after `seconds`.
local function until_found(seconds, found)
  local deadline = moonpool.core.now() + seconds * 1000
  repeat
    local value = found()
    if value then return value end
    moonpool.sleep(20)
  until moonpool.core.now() > deadline
end

local function start(self, sim)
  local command = ("setsid %s/moonpool sim --port %d --version %s --speed %g %s >>%s 2>&1 </dev/null & echo $!"):format(
    self.build, sim.port, sim.version, self.speed, sim.previews and "--previews" or "", sim.log)
  sim.pid = tonumber(sh(command))
  local f = assert(io.open(self.pids, "a"))              -- the guard reads it
  f:write(sim.pid, "\n")
  f:close()
  sim.starts = sim.starts + 1
  return until_found(30, function()
    local text = read(sim.log)
    return select(2, text:gsub("listening on", "")) == sim.starts and "up" or text:find("moonpool: ", 1, true) and "refused"
  end)
end

-- Ports below those that the system gives to outgoing connections, else one of these could sit on the port of a
-- server that is down. Taken ones are noticed by those who cannot listen there.
local function ports(self, base)
  for i, sim in ipairs(self.sims) do sim.port, sim.front = base + i, base + 100 + i end
end

local function start_all(self)
  for _, sim in ipairs(self.sims) do
    sim.starts = 0
    os.remove(sim.log)
    if start(self, sim) ~= "up" then return nil, ("%s did not start: %s"):format(sim.name, read(sim.log)) end
  end
  local routes = {}
  for i, sim in ipairs(self.sims) do routes[i] = sim.front .. ":" .. sim.port end
  self.proxy = assert(io.popen(("exec %s/chaosproxy %s >%s 2>&1"):format(self.build, table.concat(routes, " "), self.proxy_log), "w"))
  self.proxy:setvbuf "no"
  local ready = until_found(10, function() return read(self.proxy_log):match "ready" or read(self.proxy_log):match "error" end)
  return ready == "ready" or nil, "the proxy did not start: " .. read(self.proxy_log)
end

-- options: build, dir, servers, speed, random. Waits until all are there.
local function new(options)
  local self = setmetatable({ build = options.build, speed = options.speed, sims = {}, pids = options.dir .. "/pids", proxy_log = options.dir .. "/proxy.log" }, Cluster)
  local own = read "/proc/self/stat":match "^%d+"
  for i = 1, options.servers do
    -- Every third is an old one, which chooses prompt ids itself and interrupts whatever runs.
    self.sims[i] = { name = "sim-" .. i, index = i, version = i % 3 == 0 and "2024-10" or "0.18.1", previews = i % 2 == 0, log = ("%s/sim-%d.log"):format(options.dir, i), starts = 0, kills = {} }
  end
  os.execute(": >" .. self.pids)
  os.execute(("setsid sh -c 'while kill -0 %s 2>/dev/null; do sleep 1; done; kill -9 $(cat %s) 2>/dev/null' >/dev/null 2>&1 </dev/null &"):format(own, self.pids))
  local words
  for attempt = 1, 10 do
    ports(self, 10000 + (tonumber(own) * 211 + attempt * 1009) % 20000)
    local ok, why = start_all(self)
    if ok then return self end
    self:stop()
    words = why
  end
  error(words, 0)
end

function Cluster.signal(_, sim, name) os.execute(("kill -%s %d 2>/dev/null"):format(name, sim.pid)) end

-- SIGKILL: its queue, its history and, unlike a real server's, its pictures are gone.
function Cluster:kill(sim)
  self:signal(sim, "KILL")
  sim.kills[#sim.kills + 1] = moonpool.core.wall()
end

-- The words of what went wrong, or nil.
function Cluster:restart(sim)
  if start(self, sim) ~= "up" then return ("%s did not come back: %s"):format(sim.name, read(sim.log)) end
end

-- A command for the proxy, %d standing for the server's number.
function Cluster:order(sim, command)
  if self.proxy then self.proxy:write((command:gsub("%%d", tostring(sim.index))), "\n") end
end

-- Whether what was on that server may have died between two instants (milliseconds since the epoch).
function Cluster.killed_between(_, sim, from, to)
  for _, t in ipairs(sim.kills) do
    if t >= from and t <= to then return true end
  end
  return false
end

-- Words when a server or the proxy complained or ended by itself; nil when all is as it should be.
function Cluster:complaints()
  self.proxy:write "stats\n"
  if not until_found(5, function() return read(self.proxy_log):find "connections %d+, bytes %d+\n$" end) then return "the proxy does not answer: " .. read(self.proxy_log) end
  if read(self.proxy_log):find("error", 1, true) then return "proxy: " .. read(self.proxy_log) end
  for _, sim in ipairs(self.sims) do
    local text = read(sim.log):gsub("listening on [^\n]*\n", "")
    if text ~= "" then return ("%s said: %s"):format(sim.name, text) end
    if not read(("/proc/%d/stat"):format(sim.pid)):find "moonpool" then return sim.name .. " ended by itself" end
  end
end

function Cluster:stop()
  if self.proxy then self.proxy:close() end
  self.proxy = nil
  for _, sim in ipairs(self.sims) do
    if sim.pid then self:signal(sim, "KILL") end
  end
end

return new
