-- moonpool/config.lua: servers and defaults that belong to a place rather than to a script: MOONPOOL_SERVERS, or a file
-- moonpool.lua in the working folder, or in ~/.config/moonpool. Keys come from the environment or from files.
local file = require "moonpool.file"
local near = require "moonpool.near"
local task = require "moonpool.task"

local M = {}

local fields = { servers = "table", pool = "table", submit = "table" }
local secrets = { api_key = true, bearer = true, password = true }

-- {url, options of add_client} of an entry: a URL, or {url = , ...}; api_key_env = "NAME" takes the key from the
-- environment, api_key_file = "path" from a file (bearer and password too).
local function server_of(entry, where)
  if type(entry) == "string" then return { url = entry, options = {} } end
  if type(entry) ~= "table" or type(entry.url) ~= "string" then error(where .. ": a URL, or a table with a url, expected", 0) end
  local options = {}
  for k, v in pairs(entry) do
    local secret, from = tostring(k):match "^(.*)_(env)$"
    if not secret then secret, from = tostring(k):match "^(.*)_(file)$" end
    if secret and secrets[secret] then
      if type(v) ~= "string" then error(("%s: %s: a string expected, got %s"):format(where, k, type(v)), 0) end
      local value, words
      if from == "env" then value, words = os.getenv(v), "the environment has no variable " .. v
      else value, words = file.read(v) end
      if not value then error(("%s: %s: %s"):format(where, k, words), 0) end
      options[secret] = value:gsub("%s+$", "")
    elseif k ~= "url" then options[k] = v end
  end
  return { url = entry.url, options = options }
end

-- The file is Lua that gives a table; of the libraries it has os.getenv. It names servers and files with keys: like a Makefile,
-- it is for folders that one trusts.
local function load_file(path)
  local text = file.read(path)
  if not text then return nil end
  local budget = 0
  local chunk, words = load(text:gsub("^#[^\n]*", ""), "@" .. path, "t", { os = { getenv = os.getenv } })
  if not chunk then error(words, 0) end
  local co = coroutine.create(chunk)
  debug.sethook(co, function()
    budget = budget + 1
    if budget > 100 then error(path .. ": it takes too long", 0) end
  end, "", 10000)
  local ok, value = coroutine.resume(co)
  if not ok then error(tostring(value), 0) end
  if type(value) ~= "table" then error(("%s: it must return a table ({servers = {...}}), not a %s"):format(path, type(value)), 0) end
  for k, v in pairs(value) do
    if not fields[k] then
      local meant, hint = near(tostring(k), { "servers", "pool", "submit" })
      error(("%s: unknown field '%s'%s"):format(path, tostring(k), meant and hint or " (servers, pool and submit are known)"), 0)
    end
    if type(v) ~= fields[k] then error(("%s: %s: a table expected, got %s"):format(path, k, type(v)), 0) end
  end
  return value
end

-- {servers = {{url =, options =}, ...}, pool = options of moonpool.pool, submit = defaults of `moonpool submit`, from = where
-- it was found}. MOONPOOL_SERVERS (URLs with commas or blanks between) goes before the servers of a file. nil, err when a
-- file is there and wrong.
function M.load()
  local ok, found = pcall(function()
    local home = os.getenv "XDG_CONFIG_HOME"
    if not home or home == "" then home = (os.getenv "HOME" or "") .. "/.config" end
    local c, from = nil, nil
    for _, path in ipairs { "moonpool.lua", home .. "/moonpool/moonpool.lua" } do
      c, from = load_file(path), path
      if c then break end
    end
    if c and c.servers and c.servers[1] == nil and next(c.servers) then error(from .. ": servers: a list expected: { { url = ... } }", 0) end
    local result = { servers = {}, pool = c and c.pool or {}, submit = c and c.submit or {}, from = c and from }
    for i, entry in ipairs(c and c.servers or {}) do result.servers[i] = server_of(entry, ("%s: servers[%d]"):format(from, i)) end
    local env = os.getenv "MOONPOOL_SERVERS"
    if env and env:find "[^,%s]" then
      result.servers = {}
      for url in env:gmatch "[^,%s]+" do result.servers[#result.servers + 1] = { url = url, options = {} } end
    end
    return result
  end)
  if not ok then return nil, task.error("config", tostring(found)) end
  return found
end

-- Adds all servers of the configuration to the pool; how many. nil, err as load; raises what add_client raises.
function M.add_to(pool)
  local c, err = M.load()
  if not c then return nil, err end
  for _, s in ipairs(c.servers) do assert(pool:add_client(s.url, s.options)) end
  return #c.servers
end

return M
