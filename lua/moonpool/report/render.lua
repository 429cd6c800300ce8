-- moonpool/report/render.lua: a sheet as text, markdown, csv or json. Names come from workflows, that is from anybody:
-- none may act on a terminal, in a page or in a spreadsheet.
local core = require "moonpool.core"

local M = {}

-- Control characters, and the escapes among them, are shown as what they are not: one question mark each.
local function harmless(text)
  text = tostring(text):gsub("[%c\127]", "?"):gsub("\194[\128-\159]", "?")
  if not utf8.len(text) then text = text:gsub("[\128-\255]", "?") end
  return text
end

local function width(text) return utf8.len(text) or #text end

local function cut(text, room)
  if width(text) <= room then return text end
  if room < 2 or not utf8.len(text) then return text:sub(1, room) end
  return text:sub(1, utf8.offset(text, room) - 1) .. "…"
end

local function cells(part)
  local rows = {}
  for i, row in ipairs(part.rows) do
    rows[i] = {}
    for k, c in ipairs(part.columns) do rows[i][k] = harmless(c[3](row[c[2]])) end
  end
  return rows
end

-- ---- text ----------------------------------------------------------------------------------------------------------

local GAP = 2

-- Widths that fit: the widest column of words gives way first; where figures alone are too wide, the last columns go.
local function widths(part, rows, room)
  local w, total = {}, 0
  for k, c in ipairs(part.columns) do
    w[k] = width(c[1])
    for _, r in ipairs(rows) do w[k] = math.max(w[k], width(r[k])) end
    total = total + w[k] + (k > 1 and GAP or 0)
  end
  while total > room do
    local widest
    for k, c in ipairs(part.columns) do
      if c[4] and w[k] and w[k] > 8 and (not widest or w[k] > w[widest]) then widest = k end
    end
    if not widest then break end
    w[widest], total = w[widest] - 1, total - 1
  end
  local shown, used = #part.columns, 0
  for k = 1, #part.columns do
    used = used + w[k] + (k > 1 and GAP or 0)
    if used > room and k > 1 then shown = k - 1; break end
  end
  return w, shown
end

local colors = { slower = "31", faster = "32" }

local function text_table(part, room, colored, add)
  local rows = cells(part)
  local w, shown = widths(part, rows, room)
  local function line(values, paint)
    local out = {}
    for k = 1, shown do
      local t = cut(values[k], w[k])
      local blanks = (" "):rep(w[k] - width(t))
      local code = colored and (paint or colors[t])
      if code then t = ("\27[%sm%s\27[0m"):format(code, t) end
      out[k] = part.columns[k][4] and (k == shown and t or t .. blanks) or blanks .. t
    end
    add(("  " .. table.concat(out, (" "):rep(GAP))))
  end
  local head = {}
  for k, c in ipairs(part.columns) do head[k] = c[1] end
  line(head, "1")
  for _, r in ipairs(rows) do line(r) end
  if #rows == 0 then add "  (nothing)" end
  if shown < #part.columns then add(("  (%d more columns; csv and json have them all)"):format(#part.columns - shown)) end
end

local function wrapped(line, room, add)
  local text = "  - "
  for w in harmless(line):gmatch "%S+" do
    if width(text) + width(w) + 1 > room and text:find "%S%s*$" and #text > 4 then
      add((text:gsub("%s+$", "")))
      text = "    "
    end
    text = text .. w .. " "
  end
  add((text:gsub("%s+$", "")))
end

-- options: width (80), color (false)
function M.text(sheet, options)
  local room, colored = options and options.width or 80, options and options.color
  local lines = {}
  local function add(t) lines[#lines + 1] = t end
  local function title(t, code) add(colored and ("\27[%sm%s\27[0m"):format(code, harmless(t)) or harmless(t)) end
  title(sheet.title, "1;4")
  for _, part in ipairs(sheet.parts) do
    if part.facts then
      local w = 0
      for _, f in ipairs(part.facts) do w = math.max(w, width(f[1])) end
      for _, f in ipairs(part.facts) do add(("  %s%s  %s"):format(harmless(f[1]), (" "):rep(w - width(f[1])), harmless(f[2]))) end
    else
      add ""
      title(part.title, "1")
      if part.lines then
        for _, l in ipairs(part.lines) do wrapped(l, room, add) end
      else text_table(part, room - 2, colored, add) end
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- markdown ----------------------------------------------------------------------------------------------------------

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }
local function mark(text) return (harmless(text):gsub("[\\`*_{}%[%]()#+!|~-]", "\\%0"):gsub("[&<>]", entities)) end

function M.markdown(sheet)
  local lines = { "# " .. mark(sheet.title), "" }
  local function add(t) lines[#lines + 1] = t end
  for _, part in ipairs(sheet.parts) do
    if part.facts then
      for _, f in ipairs(part.facts) do add(("- **%s**: %s"):format(mark(f[1]), mark(f[2]))) end
    else
      add("## " .. mark(part.title))
      add ""
      for _, l in ipairs(part.lines or {}) do add("- " .. mark(l)) end
      if part.columns then
        local head, rule = {}, {}
        for k, c in ipairs(part.columns) do
          head[k] = mark(c[1])
          rule[k] = c[4] and ":--" or "--:"
        end
        add("| " .. table.concat(head, " | ") .. " |")
        add("| " .. table.concat(rule, " | ") .. " |")
        for _, r in ipairs(cells(part)) do
          for k, v in ipairs(r) do r[k] = mark(v) end
          add("| " .. table.concat(r, " | ") .. " |")
        end
      end
    end
    add ""
  end
  return table.concat(lines, "\n")
end

-- ---- csv (RFC 4180) -------------------------------------------------------------------------------------------------------

local function field(v)
  if v == nil then return "" end
  if type(v) == "number" then return math.type(v) == "integer" and ("%d"):format(v) or ("%.17g"):format(v) end
  local t = harmless(v)
  if t:find "^[=+@-]" then t = "'" .. t end                  -- a spreadsheet would take it for a formula
  return t:find '[",]' and '"' .. t:gsub('"', '""') .. '"' or t
end

-- The sheet's first table, raw figures; times in ms.
function M.csv(sheet)
  for _, part in ipairs(sheet.parts) do
    if part.columns then
      local head, lines = {}, {}
      for k, c in ipairs(part.columns) do head[k] = c[2] end
      lines[1] = table.concat(head, ",")
      for i, row in ipairs(part.rows) do
        local out = {}
        for k, c in ipairs(part.columns) do out[k] = field(row[c[2]]) end
        lines[i + 1] = table.concat(out, ",")
      end
      return table.concat(lines, "\r\n") .. "\r\n"
    end
  end
  return ""
end

-- ---- json --------------------------------------------------------------------------------------------------------------------

function M.json(sheet) return core.json.encode(sheet.answer) .. "\n" end

-- The sheet as data, for a formatter of the user's own: {title, answer, parts = {{title, facts, columns = {names}, rows = {texts}}}}.
function M.plain(sheet)
  local parts = core.json.array {}
  for i, part in ipairs(sheet.parts) do
    local names = core.json.array {}
    for k, c in ipairs(part.columns or {}) do names[k] = c[1] end
    parts[i] = { title = part.title, facts = part.facts, columns = names, rows = core.json.array(part.rows and cells(part) or {}) }
  end
  return { title = sheet.title, by = sheet.by, answer = sheet.answer, parts = parts }
end

M.formats = { text = M.text, markdown = M.markdown, csv = M.csv, json = M.json }
M.harmless = harmless
return M
