-- scripts/mutation.lua: a mutation at work: what each client really got.
--   moonpool scripts/mutation.lua
local moonpool = require "moonpool"

local a, b = moonpool.sim { speed = 20, seed = 1 }, moonpool.sim { speed = 20, seed = 2, vram_gb = 8 }
local pool <close> = moonpool.pool { policy = { { "scripts/policies/house_style.lua", style = { big = "oil painting" } }, "default" } }
pool:add_client(a.url, { name = "big" })
pool:add_client(b.url, { name = "small" })
assert(pool:init())
local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
for i = 1, 4 do assert(pool:submit(base:clone():input("3", "seed", i))) end
for result in pool:results() do
  print(("%-5s %s, %d pixels wide"):format(result.client, result.workflow:input("6", "text"), result.workflow:input("5", "width")))
end
