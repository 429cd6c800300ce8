-- moonpool/cli/check.lua: `moonpool check`: everything that is wrong with workflows, and what a server would say.
-- Exit codes: 0 nothing is wrong; 1 something is; 2 wrong arguments, a file or a server that cannot be read.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"

local function fail(words)
  io.stderr:write("moonpool check: ", tostring(words), "\n")
  return 2
end

-- {url, /object_info} of each server that is asked about; nil, words.
local function catalogues(urls)
  local moonpool, list = require "moonpool", {}
  for i, url in ipairs(urls) do
    local base = url:gsub("/+$", "")
    local reply, err = moonpool.http.request { url = base .. "/object_info", timeout_ms = 60000, max_body = 256 << 20 }
    if not reply then return nil, url .. ": " .. err.message end
    local info = reply.status == 200 and core.json.decode(reply.body)
    if type(info) ~= "table" then return nil, ("%s/object_info was answered with status %d%s"):format(base, reply.status, reply.status == 200 and " and no JSON" or "") end
    list[i] = { url, info }
  end
  return list
end

local function document(path)
  local text, words
  if path == "-" then text = io.read "a"
  else text, words = require("moonpool.file").read(path) end
  if not text then return nil, words end
  if text:sub(1, 8) == "\137PNG\r\n\26\n" then              -- the workflow inside of a picture
    local w, err = core.workflow.from(text)
    if not w then return nil, path .. ": " .. err.message end
    text = w:to_json()
  end
  local doc, err = core.json.decode(text)
  if doc == nil then return nil, path .. ": " .. tostring(err and err.message or "it is no JSON") end
  return doc
end

local function check(o)
  local list, words = catalogues(o.server)
  if not list then return fail(words) end
  if #list == 0 then list = { { nil, nil } } end
  local harmless, problems, lines = require("moonpool.report.render").harmless, 0, {}
  for _, path in ipairs(o.workflow) do
    local doc, why = document(path)
    if doc == nil then return fail(why) end
    for _, server in ipairs(list) do
      local found = require "moonpool.check"(doc, server[2])
      problems = problems + #found
      local where = path .. (server[1] and " on " .. server[1] or "")
      for _, p in ipairs(found) do
        if o.json then lines[#lines + 1] = core.json.encode { file = path, server = server[1], node = p.node, class = p.class or nil, input = p.input, message = p.words }
        else
          local at = p.node and ("node %s%s%s: "):format(p.node, p.class and (" (%s)"):format(p.class) or "", p.input and (", input %s"):format(p.input) or "") or ""
          lines[#lines + 1] = harmless(("%s: %s%s"):format(where, at, p.words))
        end
      end
      if #found == 0 and not o.json then
        lines[#lines + 1] = harmless(server[1] and where .. ": nothing is wrong" or where .. ": nothing is wrong in itself (--server URL compares it with what a server has)")
      end
    end
  end
  for _, line in ipairs(lines) do print(line) end
  return problems == 0 and 0 or 1
end

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool check", "Names everything that is wrong with a workflow: in itself, and with --server against its classes, inputs, values and models.")
    :epilog "Exit codes: 0 nothing is wrong, 1 something is, 2 wrong arguments, or a file or server that cannot be read."
  parser:argument("workflow", "API-format JSON, or a PNG that ComfyUI saved; - is standard input."):args "+"
  parser:option("--server", "Compare with this server (again for more)."):count "*"
  parser:flag("--json", "A line of JSON per problem.")
  local o = command.parse(parser, args)
  if not o then return 2 end
  return command.run(run, check, o, 2)
end
