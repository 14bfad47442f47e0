"""What validation chooses once networks are trained: how far classes are evened out, and which student is shipped."""
