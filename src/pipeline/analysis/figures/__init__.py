"""The figures of an answer, a module each; `registry` lists them and says how to add one."""
