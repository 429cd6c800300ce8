-- scripts/variants.lua: a variant of the workflow per kind of GPU: the job takes whichever can be sent first. The large model goes
-- where there is room for it, the small one everywhere.
--   moonpool scripts/variants.lua [COUNT]
local moonpool = require "moonpool"

local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
local large = base:clone():input("4", "ckpt_name", "sdxl.safetensors"):inputs("5", { width = 1024, height = 1024 })
local pool <close> = moonpool.pool {}
local sims = {}
if assert(moonpool.config.add_to(pool)) == 0 then
  sims[1] = moonpool.sim { speed = 20, seed = 1, vram_gb = 24 }
  sims[2] = moonpool.sim { speed = 10, seed = 2, vram_gb = 8 }
  pool:add_client(sims[1].url, { name = "24g", affinity = { large } })
  pool:add_client(sims[2].url, { name = "8g" })
end
assert(pool:init())
for i = 1, tonumber(arg[1] or 8) do
  assert(pool:submit_variants { large:clone():input("3", "seed", i), base:clone():input("3", "seed", i) })
end
local count = {}
for result in pool:results() do
  assert(result.status == "completed", result.error and result.error.message)
  local line = ("%s on %s"):format(result.workflow:input("4", "ckpt_name"), result.client)
  count[line] = (count[line] or 0) + 1
end
local lines = {}
for line, n in pairs(count) do lines[#lines + 1] = ("%3d  %s"):format(n, line) end
table.sort(lines)
print(table.concat(lines, "\n"))
