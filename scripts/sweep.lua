-- scripts/sweep.lua: every sampler with every number of steps, files named after what made them, and which was fastest.
--   moonpool scripts/sweep.lua [OUT]
local moonpool = require "moonpool"
local batch = moonpool.batch

local out = arg[1] or "build/sweep"
local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
local pool <close> = moonpool.pool {}
local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = 20 } or nil
if sim then pool:add_client(sim.url) end

for _, point in ipairs(batch.sweep { { "sampler_name", { "euler", "dpmpp_2m", "ddim" } }, { "steps", { 10, 20, 30 } } }) do
  assert(pool:submit(base:clone():inputs("3", point), { metadata = point }))
end
local times = {}
for result in pool:results() do
  assert(result.status == "completed", result.error and result.error.message)
  local point = result.metadata
  assert(result:save(out, { pattern = batch.name("lighthouse", point) .. ".{ext}" }))
  for _, node in ipairs(result.profile.nodes) do
    if node.nodeId == "3" then times[#times + 1] = { point = point, rate = point.steps / (node.duration / 1000) } end
  end
end
table.sort(times, function(a, b) return a.rate > b.rate end)
for _, t in ipairs(times) do print(("%-10s %3d steps  %8.1f steps/s"):format(t.point.sampler_name, t.point.steps, t.rate)) end
