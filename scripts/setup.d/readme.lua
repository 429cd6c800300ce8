-- scripts/setup.d/readme.lua: writes the README's API reference from the editor types: moonpool scripts/setup.d/readme.lua
-- With --check it only says whether it is up to date (exit code 1: it is not).
package.path = "lua/?.lua;" .. package.path
local reference = require "moonpool.reference"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

local api = reference.parse(read "lua/moonpool/meta/moonpool.lua")
local titles = {
  { "moonpool", "The module" }, { "WorkflowLib", "Workflows" }, { "Workflow" }, { "Pool", "Pools" }, { "Client", "Clients" }, { "Job", "Jobs" }, { "Result", "Results" },
  { "TaskLib", "Tasks" }, { "Task" }, { "Channel" }, { "BatchLib", "Batches" }, { "Manifest" }, { "ConfigLib" }, { "EditLib" }, { "ProfilesLib", "Profiles, reports, plans" },
  { "Runs" }, { "ReportLib" }, { "PlanLib" }, { "HttpLib", "Networking and JSON" }, { "WsLib" }, { "Socket" }, { "Json" }, { "Sim", "Simulated servers" },
}
local lines = {}
for _, t in ipairs(titles) do
  if t[2] then
    lines[#lines + 1] = (#lines > 0 and "\n" or "") .. "**" .. t[2] .. "**\n"
  end
  for _, f in ipairs(api.functions) do
    if f.owner == t[1] then
      local first = f.text:match "^(.-[^.]%.)%s+%u" or f.text:match "^(.-[^.]%.)%s*$" or f.text
      lines[#lines + 1] = ("- `%s`: %s"):format(reference.signature(f):gsub("|", "\\|"), first)
    end
  end
end

local text = read "README.md"
local from, to = "<!-- made from lua/moonpool/meta by scripts/setup.d/readme.lua -->\n", "<!-- end -->\n"
local _, a = text:find(from, 1, true)
local b = text:find(to, 1, true)
local new = text:sub(1, a) .. table.concat(lines, "\n") .. "\n" .. text:sub(b)
if arg[1] == "--check" then
  if new ~= text then print "README.md: its API reference is not up to date: run  build/moonpool scripts/setup.d/readme.lua" end
  os.exit(new == text and 0 or 1, true)
end
local f = assert(io.open("README.md", "wb"))
f:write(new)
f:close()
