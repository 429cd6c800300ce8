-- scripts/hello.lua: one picture.
--   moonpool scripts/hello.lua ["a lighthouse at dusk"]
-- Servers: MOONPOOL_SERVERS, or a moonpool.lua; without any a simulated one.
local moonpool = require "moonpool"

local pool <close> = moonpool.pool {}
local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = 20 } or nil
if sim then pool:add_client(sim.url) end

local wf = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
wf:input("6", "text", arg[1] or "a lighthouse at dusk"):input("3", "seed", -1)
local result = assert(pool:submit(wf)):wait()
if result.status ~= "completed" then error(result.error.message, 0) end
for _, path in ipairs(assert(result:save "build/hello")) do print(path) end
