-- moonpool/known.lua: options that nobody knows are raised, not ignored.

-- Raises at an option that is not known, at the caller's caller.
return function(options, names, what)
  if options == nil then return end
  if type(options) ~= "table" then error(what .. ": a table of options expected, got " .. type(options), 3) end
  for k in pairs(options) do
    if not names[k] then error(("%s: unknown option '%s'"):format(what, tostring(k)), 3) end
  end
end
