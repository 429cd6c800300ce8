-- scripts/routing.lua: a routing policy at work: of two servers the paid one gets work only when a job has waited too long.
--   moonpool scripts/routing.lua
local moonpool = require "moonpool"

local a, b = moonpool.sim { speed = 10, seed = 1 }, moonpool.sim { speed = 10, seed = 2 }
local pool <close> = moonpool.pool { recheck_ms = 20, policy = { "scripts/policies/night.lua", max_wait_ms = 300 } }
pool:add_client(a.url, { name = "ours" })
pool:add_client(b.url, { name = "rented", tags = { "paid" } })
assert(pool:init())
local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
for i = 1, 8 do assert(pool:submit(base:clone():input("3", "seed", i))) end
for result in pool:results() do
  local p = result.profile                             -- retryTime: it waited on the other one, and was taken back
  print(("%-6s after %4d ms"):format(result.client, (p.poolQueueTime + p.retryTime) // 1 | 0))
end
