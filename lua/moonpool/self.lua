-- moonpool/self.lua: methods that say so when they are called with a dot instead of a colon.

-- Wraps every public method that is written in Lua (those of C say it by themselves). own(object): whether it is one of the
-- class. The call itself is a tail call, so that errors still point at the script.
return function(methods, word, own)
  for name, fn in pairs(methods) do
    if type(fn) == "function" and not name:find "^_" and debug.getinfo(fn, "S").what ~= "C" then
      methods[name] = function(self, ...)
        if not own(self) then error(("%s:%s: called without its %s; write %s:%s(...), with a colon"):format(word, name, word, word, name), 2) end
        return fn(self, ...)
      end
    end
  end
end
