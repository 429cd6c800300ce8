-- moonpool/cli/clients.lua: `moonpool clients`: what each server is, has and does.
-- Exit codes: 0 all answered; 1 one did not; 2 wrong arguments, no servers.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"
local task = require "moonpool.task"

local GB = 1 << 30
local kinds = { -- words, class, input: where servers list what files they have
  { "checkpoints", "CheckpointLoaderSimple", "ckpt_name" }, { "diffusion models", "UNETLoader", "unet_name" }, { "LoRAs", "LoraLoader", "lora_name" },
  { "VAEs", "VAELoader", "vae_name" }, { "upscalers", "UpscaleModelLoader", "model_name" },
}

local function choices(info, class, input)
  local required = type(info[class]) == "table" and type(info[class].input) == "table" and info[class].input.required
  local d = type(required) == "table" and required[input]
  if type(d) ~= "table" then return nil end
  if type(d[1]) == "table" then return d[1] end
  return type(d[2]) == "table" and type(d[2].options) == "table" and d[2].options or nil
end

local function number(v) return type(v) == "number" and v or nil end
local function words(v) return type(v) == "string" and v or nil end
local function length(v) return type(v) == "table" and #v or 0 end

-- What one server says of itself; {url =, error =} when it does not.
local function look(client)
  local x = { url = client.url, name = client.name }
  local stats, err = client:system_stats()
  if not stats then x.error = err.message return x end
  local system = type(stats.system) == "table" and stats.system or {}
  x.version, x.os, x.python = words(system.comfyui_version), words(system.os), words(system.python_version)
  x.devices = core.json.array {}
  for i, d in ipairs(type(stats.devices) == "table" and stats.devices or {}) do
    d = type(d) == "table" and d or {}
    x.devices[i] = { name = words(d.name), vram_total = number(d.vram_total), vram_free = number(d.vram_free) }
  end
  local queue = client:queue()
  if type(queue) == "table" then x.running, x.pending = length(queue.queue_running), length(queue.queue_pending) end
  local info = client:object_info()
  if type(info) == "table" then
    x.classes, x.models = 0, {}
    for _ in pairs(info) do x.classes = x.classes + 1 end
    for _, k in ipairs(kinds) do
      local list = choices(info, k[2], k[3])
      if list then x.models[k[1]] = list end
    end
  end
  return x
end

local function words_of(x, all)
  local lines = { x.name ~= x.url and ("%s  (%s)"):format(x.url, x.name) or x.url }
  local function add(name, text) lines[#lines + 1] = ("  %-17s %s"):format(name, text) end
  if x.error then add("does not answer", x.error) return lines end
  add("ComfyUI", ("%s%s"):format(x.version or "(before 0.2)", x.os and ", " .. x.os or ""))
  for _, d in ipairs(x.devices) do
    add("device", ("%s%s"):format(d.name or "?", d.vram_total and (", %.1f GB VRAM, %.1f GB free"):format(d.vram_total / GB, (d.vram_free or 0) / GB) or ""))
  end
  if x.running then add("queue", ("%d running, %d waiting"):format(x.running, x.pending)) end
  if x.classes then add("node classes", tostring(x.classes)) end
  for _, k in ipairs(kinds) do
    local list = x.models and x.models[k[1]]
    if list then
      local shown = {}
      for i, name in ipairs(list) do
        if not all and i > 5 then shown[#shown + 1] = "..." break end
        shown[i] = tostring(name)
      end
      add(k[1], ("%d%s"):format(#list, #list > 0 and ": " .. table.concat(shown, ", ") or ""))
    end
  end
  return lines
end

local function fail(why)
  io.stderr:write("moonpool clients: ", tostring(why), "\n")
  return 2
end

local function clients(o)
  local moonpool = require "moonpool"
  local config, err = moonpool.config.load()
  if not config and #o.server == 0 then return fail(err.message) end
  local servers = command.servers(o.server, config)
  if #servers == 0 then return fail "no server: give addresses, or MOONPOOL_SERVERS, or a moonpool.lua with servers" end
  local pool <close> = moonpool.pool { log_level = "silent" }
  local list = {}
  for i, s in ipairs(servers) do
    local ok, client, why = pcall(pool.add_client, pool, s.url, s.options)
    if not ok or not client then return fail(ok and why or client) end
    list[i] = task.spawn(look, client)
  end
  local bad = 0
  for i, x in ipairs(task.all(list)) do
    if x.error then bad = 1 end
    if o.json then print(core.json.encode(x))
    else
      if i > 1 then print "" end
      for _, line in ipairs(words_of(x, o.all)) do print((require("moonpool.report.render").harmless(line))) end
    end
  end
  return bad
end

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool clients", "What each server is, has and does.")
    :epilog "Without addresses: MOONPOOL_SERVERS, or the servers of moonpool.lua. Exit codes: 0 all answered, 1 one did not, 2 wrong arguments."
  parser:argument("server", "Addresses: http://host:8188."):args "*"
  parser:flag("--all", "Every model, not the first five of each kind.")
  parser:flag("--json", "A line of JSON per server.")
  local o = command.parse(parser, args)
  if not o then return 2 end
  return command.run(run, clients, o, 2)
end
