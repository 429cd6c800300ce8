-- moonpool/cli/sim.lua: simulated ComfyUI servers on real ports, until interrupted.
-- Exit codes: 1 it cannot serve (a port that is taken, a file that cannot be read); 2 wrong arguments; 130 interrupted.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"
local task = require "moonpool.task"

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool sim", "Simulated ComfyUI servers: the real protocol, no GPU.")
  parser:option("--port", "First port; 0 takes any free ones.", "8188"):convert(command.number("port", 0, 65535, true))
  parser:option("--count", "How many servers, on ports one after the other.", "1"):convert(command.number("count", 1, 1000, true))
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
  parser:option("--any-ms", "What an unknown node costs.", "50"):convert(command.number("any-ms", 0, 1e+09))
  parser:option("--vram", "GB of VRAM for models.", "24"):convert(command.number("vram", 0.001, 1e+06))
  parser:option("--delay", "Hold every message this many ms, each way.", "0"):convert(command.number("delay", 0, 1e+09))
  parser:option("--costs", "JSON: node class -> ms, or {\"ms\":, \"step_ms\":}.")
  parser:option("--host", "Address to listen on.", "127.0.0.1")
  parser:option("--cache", "What is kept of earlier prompts: classic, lru or none.", "classic")
  parser:flag("--previews", "Samplers send previews.")
  local o = command.parse(parser, args)
  if not o then return 2 end
  for _, name in ipairs { "port", "count", "any_ms", "vram", "delay" } do o[name] = tonumber(o[name]) end
  local function fail(words, code)
    io.stderr:write("moonpool sim: ", tostring(words), "\n")
    return code
  end
  local costs, catalogue, words
  if o.port > 0 and o.port + o.count - 1 > 65535 then return fail(("%d servers from port %d on: ports end at 65535"):format(o.count, o.port), 2) end
  if o.costs then
    costs = core.json.decode(o.costs)
    if type(costs) ~= "table" then return fail("--costs: JSON like {\"KSampler\": 500} expected, got " .. o.costs, 2) end
  end
  if o.catalogue then
    catalogue, words = require "moonpool.file".read(o.catalogue)
    if not catalogue then return fail("--catalogue: " .. words, 1) end
  end
  local speeds = type(o.speed) == "table" and o.speed or { tonumber(o.speed) }
  return command.run(run, function()
    local sims = {}
    for i = 1, o.count do
      local fine, sim, err = pcall(core.sim, {
        port = o.port == 0 and 0 or o.port + i - 1, host = o.host, version = o.version, speed = speeds[(i - 1) % #speeds + 1], any_node = o.any_node or false, any_ms = o.any_ms,
        vram_gb = o.vram, previews = o.previews or false, cache = o.cache, delay_ms = o.delay, seed = i, name = ("Moonpool Simulated GPU %d"):format(i),
        catalogue = catalogue, costs = costs,
      })
      if not fine or not sim then
        return fail(fine and err.message or sim, 1)
      end
      sims[i] = sim
      print(("listening on http://%s:%d (ComfyUI %s, speed %g)"):format(o.host, sim.port, o.version, speeds[(i - 1) % #speeds + 1]))
    end
    io.stdout:flush()
    while #sims > 0 do task.sleep(1000) end
  end)
end
