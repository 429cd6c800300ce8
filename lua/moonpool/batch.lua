-- moonpool/batch.lua: what batch scripts do again and again: sweeps, prompts from a CSV file, pictures of a folder, names that
-- stay the same, and going on where a run before ended.
local core = require "moonpool.core"
local file = require "moonpool.file"
local task = require "moonpool.task"

local M = {}

-- Every combination of the values: sweep { sampler = {"euler", "ddim"}, steps = {10, 20} } -> a list of tables with one value
-- of each, the last name (in alphabetical order) changing fastest. A list of {name, values} keeps an order of its own.
function M.sweep(axes)
  if type(axes) ~= "table" then error("batch.sweep: a table of lists expected, got " .. type(axes), 2) end
  local names, values = {}, {}
  if axes[1] ~= nil then
    for i, a in ipairs(axes) do
      if type(a) ~= "table" or type(a[2]) ~= "table" then error(("batch.sweep: item %d: {name, values} expected"):format(i), 2) end
      names[i], values[a[1]] = a[1], a[2]
    end
  else
    for k, v in pairs(axes) do
      if type(v) ~= "table" then error(("batch.sweep: '%s': a list of values expected, got %s"):format(tostring(k), type(v)), 2) end
      names[#names + 1], values[k] = k, v
    end
    table.sort(names)
  end
  local list = { {} }
  for _, name in ipairs(names) do
    local longer = {}
    for _, row in ipairs(list) do
      for _, v in ipairs(values[name]) do
        local copy = {}
        for k, x in pairs(row) do copy[k] = x end
        copy[name] = v
        longer[#longer + 1] = copy
      end
    end
    list = longer
  end
  return list
end

-- The rows of a CSV text (RFC 4180: quotes, line ends and commas inside quotes) as lists of strings. nil, words when a
-- quote is never closed.
local function rows_of(text, separator)
  local rows, row, at, n = {}, {}, 1, #text
  local stop = "[" .. separator:gsub("%W", "%%%0") .. "\r\n]"
  while at <= n do
    local cell
    if text:sub(at, at) == '"' then
      local parts, from = {}, at + 1
      while true do
        local q = text:find('"', from, true)
        if not q then return nil, ("line %d: a quote is never closed"):format(#rows + 1) end
        parts[#parts + 1] = text:sub(from, q - 1)
        if text:sub(q + 1, q + 1) ~= '"' then at = q + 1; break end
        parts[#parts + 1], from = '"', q + 2
      end
      cell = table.concat(parts)
      local rest = text:find(stop, at) or n + 1
      cell, at = cell .. text:sub(at, rest - 1), rest
    else
      local rest = text:find(stop, at) or n + 1
      cell, at = text:sub(at, rest - 1), rest
    end
    row[#row + 1] = cell
    local c = text:sub(at, at)
    if c == separator then
      at = at + 1
      if at > n then row[#row + 1] = "" end
    else
      at = at + (text:sub(at, at + 1) == "\r\n" and 2 or 1)
      if #row > 1 or row[1] ~= "" then rows[#rows + 1] = row end
      row = {}
    end
  end
  if #row > 0 then rows[#rows + 1] = row end
  return rows
end

-- The rows of a CSV file as tables by the names in its first line; a byte order mark is skipped. separator: "," or another
-- character. nil, err (kind io, or csv with the line).
function M.csv(path, separator)
  if type(path) ~= "string" then error("batch.csv: a path expected, got " .. type(path), 2) end
  if separator ~= nil and (type(separator) ~= "string" or #separator ~= 1) then error("batch.csv: a separator of one character expected", 2) end
  local text, words = file.read(path)
  if not text then return nil, task.error("io", words) end
  local rows, why = rows_of(text:gsub("^\239\187\191", ""), separator or ",")
  if not rows then return nil, task.error("csv", path .. ": " .. why) end
  if #rows == 0 then return nil, task.error("csv", path .. ": it is empty; a first line with the names of the columns is expected") end
  local list = {}
  for i = 2, #rows do
    if #rows[i] ~= #rows[1] then return nil, task.error("csv", ("%s: row %d has %d cells, the first line %d"):format(path, i, #rows[i], #rows[1])) end
    list[i - 1] = {}
    for k, name in ipairs(rows[1]) do list[i - 1][name] = rows[i][k] end
  end
  return list
end

local pictures = { png = true, jpg = true, jpeg = true, webp = true, bmp = true, gif = true, tif = true, tiff = true }

-- The pictures in a folder (by the ends of their names), sorted by name: {{path =, name =, stem =}, ...}. nil, err.
function M.images(folder)
  if type(folder) ~= "string" then error("batch.images: a folder expected, got " .. type(folder), 2) end
  local names, words = core.list_folder(folder)
  if not names then return nil, task.error("io", words) end
  table.sort(names)
  local list = {}
  for _, name in ipairs(names) do
    local stem, ext = name:match "^(.+)%.([^.]+)$"
    if stem and pictures[ext:lower()] then list[#list + 1] = { path = (folder:gsub("/*$", "")) .. "/" .. name, name = name, stem = stem } end
  end
  return list
end

-- A file name that depends on nothing but the words given: name("lighthouse", {steps = 20, sampler = "euler"}) ->
-- "lighthouse_sampler-euler_steps-20"; of any length and characters, made harmless and cut to 120 bytes.
function M.name(stem, fields)
  if stem == nil then error("batch.name: a text expected, got nil", 2) end
  local parts, keys, by = { tostring(stem) }, {}, {}
  for k, v in pairs(fields or {}) do
    keys[#keys + 1] = tostring(k)
    by[tostring(k)] = v
  end
  table.sort(keys)
  for _, k in ipairs(keys) do parts[#parts + 1] = k .. "-" .. tostring(by[k]) end
  local text = table.concat(parts, "_"):gsub("[^%w%-_.,+=]+", "-"):gsub("^[-.]+", "")
  if #text > 120 then text = text:sub(1, 100) .. "-" .. core.digest(table.concat(parts, "_")):sub(1, 16) end
  return text == "" and "_" or text
end

-- ---- manifests ------------------------------------------------------------------------------------------------------

local Manifest = {}
Manifest.__index = Manifest

-- What a batch has done so far, a line of JSON per item in `path`: manifest:done(key) tells whether it is done,
-- manifest:add(key, files) notes that it is, at once and on disk. An item counts only while all of its files are there.
-- Lines that are torn or foreign are skipped. nil, err when the file cannot be read or written.
function M.manifest(path)
  if type(path) ~= "string" then error("batch.manifest: a path expected, got " .. type(path), 2) end
  local m = setmetatable({ path = path, items = {} }, Manifest)
  local there, text = io.open(path, "rb"), ""
  if there then                                            -- else it is made
    there:close()
    local whole, unread = file.read(path)
    if not whole then return nil, task.error("io", unread) end
    text = whole
    if text ~= "" and text:sub(1, 1) ~= "{" then return nil, task.error("io", path .. " is no manifest: its first line does not begin with {") end
  end
  for line in text:gmatch "[^\n]+" do
    local x = core.json.decode(line)
    if type(x) == "table" and type(x.key) == "string" then m.items[x.key] = type(x.files) == "table" and x.files or {} end
  end
  local out, words = io.open(path, "ab")
  if not out then
    core.beside(path)                                      -- makes the folders
    out, words = io.open(path, "ab")
  end
  if not out then return nil, task.error("io", words) end
  if text ~= "" and text:sub(-1) ~= "\n" then out:write "\n" end              -- whoever wrote before died in the middle of a line
  m.out = out
  return m
end

function Manifest:done(key)
  local files = self.items[tostring(key)]
  if not files then return false end
  for _, path in ipairs(files) do
    local f = io.open(path, "rb")
    if not f then return false end
    f:close()
  end
  return true
end

function Manifest:add(key, files)
  if not self.out then error("manifest:add: the manifest is closed", 2) end
  self.items[tostring(key)] = files or {}
  local ok, words = self.out:write(core.json.encode { key = tostring(key), files = core.json.array(files or {}) }, "\n")
  if ok then ok, words = self.out:flush() end
  if not ok then return nil, task.error("io", self.path .. ": " .. tostring(words)) end
  return true
end

function Manifest:close()
  if self.out then self.out:close() end
  self.out = nil
end
require "moonpool.self"(Manifest, "manifest", function(x) return getmetatable(x) == Manifest end)
Manifest.__close = function(m) m:close() end

return M
