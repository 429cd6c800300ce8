-- moonpool/cli/sim.lua: simulated ComfyUI servers on real ports, until interrupted.
local core = require "moonpool.core"
local task = require "moonpool.task"

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool sim", "Simulated ComfyUI servers: the real protocol, no GPU.")
  parser:option("--port", "First port; 0 takes any free ones.", "8188"):convert(tonumber)
  parser:option("--count", "How many servers, on ports one after the other.", "1"):convert(tonumber)
  parser:option("--speed", "Work runs this many times as fast; a list (1,0.5) gives each server its own.", "1"):convert(function(text)
    local list = {}
    for s in text:gmatch "[^,]+" do
      list[#list + 1] = tonumber(s)
      if not list[#list] or list[#list] <= 0 then return nil, "--speed: not a number above 0: " .. s end
    end
    return list
  end)
  parser:option("--version", "Behave as this ComfyUI: 0.18.1, 0.3.75, 0.3.64 or 2024-10.", "0.18.1")
  parser:option("--catalogue", "A saved GET /object_info to take instead of the built-in node classes.")
  parser:flag("--any-node", "Accept every node class; ends of the graph make a picture.")
  parser:option("--any-ms", "What an unknown node costs.", "50"):convert(tonumber)
  parser:option("--vram", "GB of VRAM for models.", "24"):convert(tonumber)
  parser:option("--delay", "Hold every message this many ms, each way.", "0"):convert(tonumber)
  parser:option("--costs", "JSON: node class -> ms, or {\"ms\":, \"step_ms\":}.")
  parser:option("--host", "Address to listen on.", "127.0.0.1")
  parser:option("--cache", "What is kept of earlier prompts: classic, lru or none.", "classic")
  parser:flag("--previews", "Samplers send previews.")
  local ok, o = parser:pparse(args)
  if not ok then
    io.stderr:write(parser:get_usage(), "\n\nError: ", o, "\n")
    return 2
  end
  local function read(path)
    local f = assert(io.open(path, "rb"))
    local text = f:read "a"
    f:close()
    return text
  end
  local speeds = type(o.speed) == "table" and o.speed or { tonumber(o.speed) }
  return run(function()
    local sims = {}
    for i = 1, o.count do
      local sim, err = core.sim {
        port = o.port == 0 and 0 or o.port + i - 1, host = o.host, version = o.version, speed = speeds[(i - 1) % #speeds + 1], any_node = o.any_node or false, any_ms = o.any_ms,
        vram_gb = o.vram, previews = o.previews or false, cache = o.cache, delay_ms = o.delay, seed = i, name = ("Moonpool Simulated GPU %d"):format(i),
        catalogue = o.catalogue and read(o.catalogue) or nil, costs = o.costs and core.json.decode(o.costs) or nil,
      }
      if not sim then error(tostring(err), 0) end
      sims[i] = sim
      print(("listening on http://%s:%d (ComfyUI %s, speed %g)"):format(o.host, sim.port, o.version, speeds[(i - 1) % #speeds + 1]))
    end
    io.stdout:flush()
    while #sims > 0 do task.sleep(1000) end
  end)
end
