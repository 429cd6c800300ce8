-- tests/chaos/faults.lua: what goes wrong, when and for how long, from a seed. Every fault ends, and at most half of
-- the servers have one at a time, so that all work can be done.
local moonpool = require "moonpool"
local Random = require "random"

local kinds = {}

function kinds.kill(cluster, sim, random)
  local down = random:int(0, 1500)
  cluster:kill(sim)
  moonpool.sleep(down)
  return cluster:restart(sim)
end

-- Stopped it keeps its sockets and answers nothing; then it works off what had come meanwhile.
function kinds.stop(cluster, sim, random)
  local span = random:int(300, 5500)
  cluster:signal(sim, "STOP")
  moonpool.sleep(span)
  cluster:signal(sim, "CONT")
end

local function proxied(command, from, to)
  return function(cluster, sim, random)
    local line, span = command(random), random:int(from, to)
    cluster:order(sim, line)
    moonpool.sleep(span)
    cluster:order(sim, "heal %d")
  end
end

-- Often amid requests and replies, which are slowed down for that.
function kinds.cut(cluster, sim, random)
  if random:chance(60) then
    cluster:order(sim, "delay %d " .. random:int(50, 800))
    moonpool.sleep(random:int(50, 1000))
  end
  cluster:order(sim, "cut %d")
  cluster:order(sim, "heal %d")
end
-- Amid a reply or a frame, often amid its head.
kinds.torn = proxied(function(random) return "cut %d " .. random:int(0, random:chance(50) and 300 or 4000) end, 200, 1500)
kinds.delay = proxied(function(random) return "delay %d " .. random:int(20, 1500) end, 500, 4000)
kinds.half = proxied(function(random) return "half %d " .. random:pick { "up", "down" } end, 500, 5000)
-- The server is told that we have finished, or we that it has, while the other direction stays open.
kinds.fin = proxied(function(random) return "fin %d " .. random:pick { "up", "down" } end, 100, 2000)
kinds.drop = proxied(function() return "drop %d on" end, 200, 3000)

local Faults = {}
Faults.__index = Faults
Faults.names = { "kill", "stop", "cut", "torn", "delay", "half", "fin", "drop" }

-- Starts making faults: one every 50 to 250 ms, of the kinds in the list `names`. Each has random numbers of its own,
-- so that how fast things go does not change what comes next.
function Faults.start(cluster, seed, names)
  local self = setmetatable({ counts = {}, troubled = {}, tasks = {}, n = 0, over = false }, Faults)
  for _, name in ipairs(Faults.names) do self.counts[name] = 0 end
  local function troubled()
    local n = 0
    for _ in pairs(self.troubled) do n = n + 1 end
    return n
  end
  local function one(kind, sim, random)
    self.troubled[sim] = true
    self.n = self.n + 1
    self.counts[kind] = self.counts[kind] + 1
    self.tasks[self.n] = moonpool.spawn(function()
      local words = kinds[kind](cluster, sim, random)
      self.troubled[sim] = nil
      self.problem = self.problem or words
    end)
  end
  self.maker = moonpool.spawn(function()
    for i = 1, math.huge do
      local random = Random(seed, "fault " .. i)
      moonpool.sleep(random:int(50, 250))
      if self.over or #names == 0 then return end
      local kind, sim = random:pick(names), random:pick(cluster.sims)
      if not self.troubled[sim] and troubled() < (#cluster.sims + 1) // 2 then one(kind, sim, random) end
    end
  end)
  return self
end

-- No new ones; waits until those there are have ended. Words when a server did not come back.
function Faults:stop()
  self.over = true
  self.maker:wait()
  moonpool.task.all(self.tasks)
  return self.problem
end

function Faults:text()
  local words = {}
  for _, name in ipairs(Faults.names) do
    if self.counts[name] > 0 then words[#words + 1] = self.counts[name] .. " " .. name end
  end
  return #words > 0 and table.concat(words, ", ") or "no faults"
end

return Faults
