-- scripts/progress.lua: live progress: what each job does, how far it is and how long it will take, and previews as files.
--   moonpool scripts/progress.lua [COUNT] [FOLDER FOR PREVIEWS]
local moonpool = require "moonpool"

local pool <close> = moonpool.pool {}
local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = 10, previews = true } or nil
if sim then pool:add_client(sim.url) end
local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
local folder, previews, told = arg[2], 0, {}

for i = 1, tonumber(arg[1] or 3) do
  local job = assert(pool:submit(base:clone():input("3", "seed", i)))
  job:on("progress", function(p)
    local tenth = p.overall * 10 // 1
    if told[job.id] == tenth then return end
    told[job.id] = tenth
    local left = job:time_left()
    print(("job %s: %3d %%, node %s at %g of %g%s"):format(job.id, p.overall * 100 // 1 | 0, p.node, p.value, p.max, left and (", %.1f s left"):format(left / 1000) or ""))
  end)
  job:on("preview", function(p)
    previews = previews + 1
    if not folder then return end
    local f = assert(io.open(("%s/%s.%s"):format(folder, p.job_id, p.format), "wb"))
    f:write(p.image)
    f:close()
  end)
end
local n = 0
for _ in pool:results() do n = n + 1 end
print(("%d jobs, %d previews"):format(n, previews))
