-- moonpool/cli/command.lua: what the commands share.
local M = {}

-- The options that `args` are; nil when they are wrong: the usage was told, and the exit code is 2.
function M.parse(parser, args)
  local ok, o = parser:pparse(args)
  if ok then return o end
  io.stderr:write(parser:get_usage(), "\n\nError: ", o, "\n")
end

-- Runs fn(o) as a script is run; its exit code. raised: the one of an error, if not that of `run`.
function M.run(run, fn, o, raised)
  local code = 0
  local status = run(function() code = fn(o) end)
  return status ~= 0 and (raised or status) or code
end

-- For option:convert: a number in a range, else words that name the option.
function M.number(name, low, high, whole)
  return function(text)
    local n = tonumber(text)
    if whole then n = math.tointeger(n) end
    if not n or n ~= n or n < low or n > high then return nil, ("--%s: a%s number from %.15g to %.15g expected, got %s"):format(name, whole and " whole" or "", low, high, text) end
    return n
  end
end

-- {url =, options =} of the addresses or, when there are none, the servers of the configuration.
function M.servers(urls, config)
  if #urls == 0 then return config.servers end
  local list = {}
  for i, url in ipairs(urls) do list[i] = { url = url, options = {} } end
  return list
end

return M
