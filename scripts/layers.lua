-- scripts/layers.lua: the layer check. A file includes its own room and lower floors, never up, never sideways
-- unless the table says so. Reads the #include lines of src/. usage: layers.lua [FOLDER]
local rooms = {
  base = { "base" },
  net = { "net", "base" },
  graph = { "graph", "base" },
  comfy = { "comfy", "graph", "base" },
  prof = { "prof", "comfy", "graph", "base" },
  pool = { "pool", "prof", "comfy", "graph", "base" },
  sim = { "sim", "comfy", "graph", "base" },
  wire = { "wire", "net", "pool", "sim", "prof", "comfy", "graph", "base" },
  world = { "world", "pool", "sim", "prof", "comfy", "graph", "base" },
  lua = { "lua", "wire", "world", "pool", "sim", "prof", "comfy", "graph", "net", "base" },
}
-- Headers of libraries, and the only places that may see them (a room, or one file).
local doors = {
  { "^uv%.h$", { "net/" } }, { "^curl/", { "net/" } }, { "^libwebsockets", { "net/" } }, { "^cjson/", { "base/json.c" } }, { "^openssl/", { "base/digest.c" } },
  { "^zlib", { "sim/image.c" } }, { "^lua", { "lua/", "main.c" } }, { "^lauxlib", { "lua/", "main.c" } }, { "^lualib", { "lua/", "main.c" } },
  { "^time%.h$", { "net/", "lua/" } }, { "^sys/time", { "net/" } }, { "^pthread", { "net/" } }, { "^signal", { "net/", "lua/" } },
}

local src = (arg and arg[1] or "src") .. "/"
local bad = 0
local function complain(file, line, words)
  bad = bad + 1
  print(("%s:%d: %s"):format(file, line, words))
end

local function check(path)
  local file = path:sub(#src + 1)
  local room = file:match "^(%w+)/"
  local allowed = {}
  for _, r in ipairs(rooms[room] or {}) do allowed[r] = true end
  local n = 0
  for line in io.lines(path) do
    n = n + 1
    local own = line:match '^%s*#%s*include%s*"([^"]+)"'
    local system = line:match "^%s*#%s*include%s*<([^>]+)>"
    local to = own and own:match "^(%w+)/"
    if to and rooms[to] and room and not allowed[to] then complain(path, n, ("%s may not see %s (%s)"):format(room, to, own)) end
    if own and not to and own ~= "moonpool.h" then complain(path, n, "an include names its room: " .. own) end
    for _, d in ipairs(system and doors or {}) do
      if system:find(d[1]) then
        local ok = false
        for _, place in ipairs(d[2]) do ok = ok or file:sub(1, #place) == place end
        if not ok then complain(path, n, ("<%s> belongs to %s only"):format(system, table.concat(d[2], ", "))) end
      end
    end
  end
end

local list = assert(io.popen("find " .. src .. " -name '*.[ch]' | sort"))
local files = 0
for path in list:lines() do
  files = files + 1
  check(path)
end
list:close()
if bad > 0 then
  print(("layers: %d wrong includes in %d files"):format(bad, files))
  os.exit(1)
end
print(("layers: %d files, every include goes down"):format(files))
