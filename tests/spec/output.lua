-- tests/spec/output.lua: busted's output as one line a failure and one line in the end, with the numbers also left in
-- a file, so that CI can add up the runs.
return function()
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base" ()
  local function tell(kind, list)
    for _, t in ipairs(list) do
      io.write(kind, ": ", handler.getFullName(t), "\n  ", tostring(t.message), "\n")
      if t.trace and t.trace.traceback and kind == "error" then io.write(t.trace.traceback, "\n") end
    end
  end
  handler.suiteEnd = function()
    tell("failed", handler.failures)
    tell("error", handler.errors)
    local bad = #handler.failures + #handler.errors
    for _, t in ipairs(handler.pendings) do io.write("skipped: ", handler.getFullName(t), " (", tostring(t.message or "pending"), ")\n") end
    io.write(("specs: %d passed, %d failed, %d skipped\n"):format(#handler.successes, bad, #handler.pendings))
    local f = io.open(os.getenv "MOONPOOL_COUNT" or (os.getenv "MOONPOOL_BUILD" or "build") .. "/tmp/" .. os.time() .. math.random(1e9) .. ".count", "w")
    if f then
      f:write(#handler.successes, " ", bad, " ", #handler.pendings, "\n")
      f:close()
    end
    return nil, true
  end
  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  return handler
end
