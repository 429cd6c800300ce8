-- scripts/capacity.lua: a question of capacity, answered from a profile log: how many GPUs for so many pictures an hour, if nobody
-- is to wait longer than half a minute, and what each policy makes of it?
--   moonpool scripts/capacity.lua runs.jsonl PICTURES_PER_HOUR
local moonpool = require "moonpool"

local log, rate = arg[1], tonumber(arg[2])
if not log or not rate then error("usage: capacity.lua runs.jsonl PICTURES_PER_HOUR", 0) end
local load = { log = log, arrivals = { rate_per_hour = rate }, jobs = 2000, seed = 1 }

local function with(more)
  local o = {}
  for k, v in pairs(load) do o[k] = v end
  for k, v in pairs(more) do o[k] = v end
  return o
end
local n, plan = moonpool.plan.fewest(with { wait_p95_ms = 30000, most = 256 })
if not n then error(plan.message, 0) end
print(("%d clients are enough for %g jobs an hour: 95 %% wait %.1f s or less, %.0f %% busy"):format(n, rate, plan.wait.p95 / 1000, plan.utilization * 100))
for _, p in ipairs(assert(moonpool.plan.policies(with { clients = n }, { "default", "first_free", "least_busy", "round_robin" }))) do
  print(("  %-12s p50 %6.1f s  p95 %6.1f s in all"):format(p.policy, p.plan.total.p50 / 1000, p.plan.total.p95 / 1000))
end
