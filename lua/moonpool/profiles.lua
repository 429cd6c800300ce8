-- moonpool/profiles.lua: finished jobs read back from profile logs, and what can be asked of them together.
local core = require "moonpool.core"

local M = {}

-- The runs in a log, or in several (a list of paths), in the order of their starts. options.label: only those with that
-- label. Lines that are no profile are skipped: runs:skipped() tells how many, and how many were of a newer schema.
-- #runs is their number, runs[i] the i-th as it was logged. nil, err when a file cannot be read.
--
--   runs:slow(by)         where the time goes; by: "class" (default), "node", "client", "workflow"
--   runs:cache()          hit rates, and why nodes ran again, by node
--   runs:why(i)           why each node of run i ran
--   runs:progress()       steps per second of samplers, and how well the time left could be told
--   runs:completed()      how many of them completed
--   runs:clients()        utilization of each client, and what it waited for
--   runs:compare(other)   whether `other` is slower, row by row
--
-- Each gives a plain table; prof/runs.h says what is in it.
function M.load(paths, options)
  if type(paths) == "string" then paths = { paths } end
  if type(paths) ~= "table" then error("profiles.load: a path or a list of paths expected, got " .. type(paths), 2) end
  for k in pairs(options or {}) do
    if k ~= "label" then error(("profiles.load: unknown option '%s'"):format(tostring(k)), 2) end
  end
  local runs = core.runs()
  for i, path in ipairs(paths) do
    if type(path) ~= "string" then error(("profiles.load: item %d: a path expected, got %s"):format(i, type(path)), 2) end
    local ok, err = runs:_load(path)
    if not ok then return nil, err end
  end
  runs:_ready(options and options.label)
  return runs
end

-- The method of compare() on two lists of numbers: medians, p90, their change with 95 % intervals, p, detectable.
M.compare = core.compare

return M
