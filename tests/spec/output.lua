-- tests/spec/output.lua: busted's output as one line a failure and one line in the end, which CI adds up.
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
    return nil, true
  end
  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  return handler
end
