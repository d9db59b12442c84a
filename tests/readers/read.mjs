// Read junit.xml and ctrf.json in a folder as CI tools do, and print what they understand, as JSON.
import { readFileSync } from 'node:fs'
import { calculateSummary, isTestFlaky, parse as parseCtrf, validateStrict } from 'ctrf'
import { parse as parseJunit } from 'junit2json'

const folder = process.argv[2]
const read = (name) => readFileSync(`${folder}/${name}`, 'utf8')

const report = parseCtrf(read('ctrf.json'))
validateStrict(report)
const { tests, summary } = report.results

const suite = await parseJunit(read('junit.xml'))
const state = (test) => (test.failure ? 'failed' : test.error ? 'error' : test.skipped ? 'skipped' : 'passed')

console.log(JSON.stringify({
  ctrf: {
    tests: Object.fromEntries(tests.map((test) => [test.name, test.status])),
    flaky: tests.filter(isTestFlaky).map((test) => test.name),
    summary,
    counted: calculateSummary(tests),
  },
  junit: {
    tests: Object.fromEntries(suite.testcase.map((test) => [test.name, state(test)])),
    counts: [suite.tests, suite.failures, suite.errors, suite.skipped],
  },
}))
