if not is_owner then
  return {'fenced', held[2], held[1] or ''}
end
