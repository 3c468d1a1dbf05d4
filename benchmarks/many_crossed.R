# The R worker of many_crossed.py: fits one model to the columns y0, y1, ... of a file, anew and by
# refit, whose REML criteria are those of other models (2 above lmer's in lme4 1.1-31).
#
#   Rscript benchmarks/many_crossed.R FILE MODEL
#
# Prints the seconds of one refit and of one call of lmer, with standard errors, then the REML
# criteria of the latter.

args <- commandArgs(TRUE)
suppressMessages(library(lme4))
data <- read.csv(args[1])
names <- grep("^y[0-9]+$", colnames(data), value = TRUE)
quiet <- function(x) suppressWarnings(suppressMessages(x))
start <- quiet(lmer(as.formula(paste("y0 ~", args[2])), data))
refits <- system.time(for (name in names) vcov(quiet(refit(start, data[[name]]))))[["elapsed"]]
criteria <- numeric(length(names))
fits <- system.time(for (i in seq_along(names)) {
  m <- quiet(lmer(as.formula(paste(names[i], "~", args[2])), data))
  vcov(m)
  criteria[i] <- REMLcrit(m)
})[["elapsed"]]
cat(c(refits, fits) / length(names), format(criteria, digits = 12), "\n")
