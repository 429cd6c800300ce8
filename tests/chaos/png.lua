-- tests/chaos/png.lua: whether bytes are a whole PNG: signature, every chunk with its CRC, IEND at the very end.
local M = {}

local crcs = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = c & 1 == 1 and 0xEDB88320 ~ (c >> 1) or c >> 1 end
  crcs[i] = c
end

local function crc32(s, from, to)
  local c, i = 0xFFFFFFFF, from
  while i + 7 <= to do                 -- eight at a time: this is most of what a check costs
    local a, b, d, e, f, g, h, k = s:byte(i, i + 7)
    c = crcs[(c ~ a) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ b) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ d) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ e) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ f) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ g) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ h) & 0xFF] ~ (c >> 8)
    c = crcs[(c ~ k) & 0xFF] ~ (c >> 8)
    i = i + 8
  end
  for at = i, to do c = crcs[(c ~ s:byte(at)) & 0xFF] ~ (c >> 8) end
  return c ~ 0xFFFFFFFF
end

-- The text chunks by keyword; nil and words when it is not whole.
function M.texts(bytes)
  local texts, at, last = {}, 9, nil
  if bytes:sub(1, 8) ~= "\x89PNG\r\n\x1a\n" then return nil, "no PNG signature" end
  while at <= #bytes do
    if at + 11 > #bytes then return nil, "ends inside a chunk's head" end
    local n, kind = (">I4c4"):unpack(bytes, at)
    if at + 11 + n > #bytes then return nil, ("ends inside %s"):format(kind) end
    if crc32(bytes, at + 4, at + 7 + n) ~= (">I4"):unpack(bytes, at + 8 + n) then return nil, ("the CRC of %s is wrong"):format(kind) end
    if kind == "tEXt" then
      local key, text = bytes:sub(at + 8, at + 7 + n):match "^([^%z]*)%z(.*)$"
      if key then texts[key] = text end
    end
    last, at = kind, at + 12 + n
    if kind == "IEND" and at <= #bytes then return nil, "bytes after IEND" end
  end
  if last ~= "IEND" then return nil, "no IEND" end
  return texts
end

return M
