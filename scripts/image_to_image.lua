-- scripts/image_to_image.lua: redraws every picture of a folder. Each is sent once to each server that needs it.
--   moonpool scripts/image_to_image.lua PICTURES [OUT]
local moonpool = require "moonpool"
local batch = moonpool.batch

local pictures = assert(batch.images(arg[1] or error("usage: image_to_image.lua PICTURES [OUT]", 0)))
local out = arg[2] or "build/redrawn"
local base = assert(moonpool.workflow.load "scripts/workflows/image_to_image.json")
local pool <close> = moonpool.pool {}
local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = 20 } or nil
if sim then pool:add_client(sim.url) end

for _, picture in ipairs(pictures) do
  local wf = base:clone()
  assert(wf:attach_image("1", "image", { path = picture.path }))
  assert(pool:submit(wf, { metadata = { stem = picture.stem } }))
end
for result in pool:results() do
  assert(result.status == "completed", result.error and result.error.message)
  print(assert(result:save(out, { pattern = batch.name(result.metadata.stem) .. ".{ext}" }))[1])
end
