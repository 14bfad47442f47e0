"""From proven artifacts to one bundle: manifest, report and card, and several students in one."""
