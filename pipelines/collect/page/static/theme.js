// Set before anything is painted, so that a dark page never flashes white.
{
  let theme = null;
  try { theme = localStorage.getItem("tunewell:theme"); } catch { /* storage may be off */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
