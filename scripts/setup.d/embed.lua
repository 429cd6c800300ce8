-- scripts/setup.d/embed.lua: the Lua half as C arrays. usage: embed.lua OUT FILE...
local out = assert(io.open(arg[1], "w"))
local names = {}
out:write("/* Made by scripts/setup.d/embed.lua; do not edit. */\n#include \"lua/inside.h\"\n")
for i = 2, #arg do
  local f = assert(io.open(arg[i], "rb"))
  local text = f:read "a"
  f:close()
  local name = arg[i]:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/", "."):gsub("%.init$", "")
  out:write("static const char file_", i, "[] = {")
  for k = 1, #text, 24 do
    local bytes = { text:byte(k, k + 23) }
    out:write("\n", table.concat(bytes, ","), ",")
  end
  out:write("0};\n")
  names[#names + 1] = ("{\"%s\", file_%d, %d},"):format(name, i, #text)
end
out:write("const l_embedded l_embedded_files[] = {", table.concat(names), "{NULL, NULL, 0}};\n")
out:close()
