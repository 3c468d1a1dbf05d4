# The R worker of mmrm.py: one trial, one package (nlme or glmmTMB), a process of its own.
#
#   Rscript benchmarks/mmrm.R FOLDER PACKAGE RUNS LONG
#
# Prints the same lines of JSON as the Python worker. A call ends with the printed summary.

args <- commandArgs(TRUE)
package <- args[2]
runs <- as.integer(args[3])
long <- as.numeric(args[4])
fixed <- as.formula(readLines(file.path(args[1], "fixed.txt")))
data <- read.csv(file.path(args[1], "trial.csv"), stringsAsFactors = TRUE)

fit_nlme <- function() {
  m <- nlme::gls(fixed, data, correlation = nlme::corSymm(form = ~ VISITN | USUBJID),
                 weights = nlme::varIdent(form = ~ 1 | VISITN), method = "REML")
  capture.output(print(summary(m)))
  list(criterion = -2 * as.numeric(logLik(m)), converged = TRUE)  # gls stops with an error if not
}

fit_glmmTMB <- function() {
  m <- glmmTMB::glmmTMB(update(fixed, . ~ . + us(0 + AVISIT | USUBJID)), data,
                        dispformula = ~ 0, REML = TRUE)
  capture.output(print(summary(m)))
  good <- m$fit$convergence == 0 && isTRUE(m$sdr$pdHess)
  list(criterion = -2 * as.numeric(logLik(m)), converged = good)
}

number <- function(x) if (length(x) != 1 || !is.finite(x)) "null" else format(x, digits = 15)

fit <- switch(package, nlme = fit_nlme, glmmTMB = fit_glmmTMB)
load <- system.time(suppressMessages(suppressWarnings(loadNamespace(package))), gcFirst = FALSE)
cat(sprintf('{"import_s": %s, "import_cpu_s": %s, "version": "%s"}\n', number(load[["elapsed"]]),
            number(load[["user.self"]] + load[["sys.self"]]),
            paste0(packageVersion(package), ", R ", getRversion())))
for (i in seq_len(runs + 1)) {
  start <- as.numeric(Sys.time())
  cpu <- system.time(out <- suppressMessages(suppressWarnings(fit())), gcFirst = FALSE)
  seconds <- as.numeric(Sys.time()) - start
  cat(sprintf('{"seconds": %s, "cpu_s": %s, "criterion": %s, "converged": %s}\n',
              number(seconds), number(cpu[["user.self"]] + cpu[["sys.self"]]),
              number(out$criterion), tolower(as.character(out$converged))))
  if (seconds > long) break
}
