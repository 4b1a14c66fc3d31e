"use strict";
// Before anything is laid out: what scripts do not need is not.
document.documentElement.classList.replace("no-js", "js-on");
document.documentElement.classList.add("starting");
