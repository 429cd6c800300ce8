-- scripts/two_stages.lua: text to image on one server, upscaling on another; the picture goes from one to the other. While a
-- picture is enlarged the next one is drawn.
--   moonpool scripts/two_stages.lua [COUNT] [OUT]
local moonpool = require "moonpool"
local task = moonpool.task

local count, out = math.tointeger(tonumber(arg[1] or 4)), arg[2] or "build/two_stages"
if not count or count < 1 then error("usage: two_stages.lua [COUNT] [OUT]", 0) end
local draw = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
local enlarge = assert(moonpool.workflow.load "scripts/workflows/upscale.json")
local pool <close> = moonpool.pool {}
local sims = {}
if assert(moonpool.config.add_to(pool)) == 0 then
  for i = 1, 2 do sims[i] = moonpool.sim { speed = 20, seed = i } pool:add_client(sims[i].url, { name = "sim-" .. i }) end
end
assert(pool:init())
local clients = pool:clients()
local first, second = clients[1].name, (clients[2] or clients[1]).name
local function only(name)                          -- everybody else is excluded
  local others = {}
  for _, c in ipairs(clients) do if c.name ~= name then others[#others + 1] = c.name end end
  return others
end

local drawn = task.channel(2)
local drawing = task.spawn(function()
  local numbers, _ <close> = {}, setmetatable({}, { __close = function() drawn:close() end })    -- also when something fails
  for i = 1, count do numbers[i] = i end
  task.workers(2, numbers, function(number)
    local result = assert(pool:submit(draw:clone():input("3", "seed", number), { excluded_clients = only(first) })):wait()
    assert(result.status == "completed", result.error and result.error.message)
    drawn:put { number = number, bytes = assert(result:fetch(result.images[1])) }
  end)
end)
for picture in drawn:values() do
  local wf = enlarge:clone()
  assert(wf:attach_image("1", "image", picture.bytes, ("drawn-%d.png"):format(picture.number)))
  local result = assert(pool:submit(wf, { excluded_clients = only(second) })):wait()
  assert(result.status == "completed", result.error and result.error.message)
  print(("%d: drawn on %s, enlarged on %s: %s"):format(picture.number, first, result.client, assert(result:save(out, { pattern = ("large-%d.{ext}"):format(picture.number) }))[1]))
end
drawing:wait()
