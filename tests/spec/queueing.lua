-- queueing.lua: loads whose mean waits are known, for plan_spec and for the bench.
local moonpool = require "moonpool"
local core = moonpool.core
local M = {}

-- Arrivals at random, and times: a generator of our own, the same on every machine.
local state
local function random()
  state = state * 6364136223846793005 + 1442695040888963407
  return ((state >> 11) & ((1 << 53) - 1)) / 2 ^ 53
end
local function exponential(mean) return -mean * math.log(1 - random()) end

local MEAN = 1000
local services = {
  exponential = function() return exponential(MEAN) end,
  fixed = function() return MEAN end,
  mixed = function() return random() < 0.5 and MEAN / 2 or MEAN * 1.5 end,        -- variance MEAN^2 / 4
}

-- Arrivals, services and kinds of n jobs that come at random, `rho` of what the servers can do.
function M.load_of(n, servers, rho, service, seed)
  state = seed
  local a, s, k, t = {}, {}, {}, 0
  for i = 1, n do
    t = t + exponential(MEAN / (servers * rho))
    a[i], s[i], k[i] = math.floor(t * 1000) / 1000, math.floor(services[service]() * 1000) / 1000, 1
  end
  return a, s, k
end

-- The plan of that load.
function M.planned(a, s, k, servers, policy)
  local clients = {}
  for i = 1, servers do clients[i] = { slots = 1 } end
  return assert(core.plan { arrivals = a, services = s, kinds = k, cold = { 0 }, clients = clients, policy = policy or false })
end

-- In units of the mean service.
function M.mean_wait(a, r)
  local sum = 0
  for i = 1, #a do sum = sum + r.begun[i] - a[i] end
  return sum / #a / MEAN
end

-- Mean waits in units of the mean service: Pollaczek and Khinchine; Erlang's C.
local function erlang_c(c, rho)
  local sum, term = 0, 1
  for i = 0, c - 1 do
    sum = sum + term
    term = term * c * rho / (i + 1)
  end
  local last = term / (1 - rho)
  return last / (sum + last)
end
-- name, servers, load, service, mean wait, jobs that bring it within 3 %
M.cases = {
  { "M/M/1 at 0.5", 1, 0.5, "exponential", 0.5 / 0.5, 200000 }, { "M/M/1 at 0.8", 1, 0.8, "exponential", 0.8 / 0.2, 400000 },
  { "M/D/1 at 0.8", 1, 0.8, "fixed", 0.8 / 0.2 / 2, 200000 }, { "M/G/1 at 0.8", 1, 0.8, "mixed", 0.8 / 0.2 / 2 * 1.25, 200000 },
  { "M/M/3 at 0.8", 3, 0.8, "exponential", erlang_c(3, 0.8) / (3 * 0.2), 300000 },
}

return M
